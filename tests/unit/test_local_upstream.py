"""The driver of in-process tools: what an adapter says, or does not say, as outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from outrider.calls import Agent, Attempt, Call, Effect, Outcome, OutcomeKind, Reason
from outrider.errors import Code
from outrider.policy.plans import Limits, Plan, Upstream
from outrider.upstreams import local as local_module
from outrider.upstreams.local import LocalUpstream
from outrider.upstreams.local_machine import TABLE, WAITING, Do, Event, State, step
from outrider.upstreams.local_outcomes import of_finished
from outrider.wire import Abort, Aborted, Ack, Ended, Execute, Finished, FromGateway, Raised

pytestmark = pytest.mark.looptime
PLAN = Plan("local.search", Upstream("local"))
OK, DEFINITE, NOT_EXECUTED = OutcomeKind.OK, OutcomeKind.DEFINITE, OutcomeKind.NOT_EXECUTED
UNKNOWN, SUSPENDED = OutcomeKind.UNKNOWN, OutcomeKind.SUSPENDED


class Far:
    """A process as its channel session presents it: what was pushed to it, and whether it is connected."""

    def __init__(self, far_id: str = "s-1", instance: str = "i1") -> None:
        self.id = far_id
        self.instance = instance
        self.up = True
        self.frames: list[FromGateway] = []
        self.closed: set[str] = set()
        self.on_push: Callable[[FromGateway], None] = lambda frame: None

    def push(self, frame: FromGateway) -> bool:
        if self.up:
            self.frames.append(frame)
            self.on_push(frame)
        return self.up

    def ref_of(self, call_id: str) -> str | None:
        return None if call_id in self.closed else f"ref-{call_id}"

    def sent(self, kind: type) -> list[Any]:
        return [frame for frame in self.frames if isinstance(frame, kind)]


class World:
    """A driver with one connected process, and what it called back."""

    def __init__(self) -> None:
        self.settled: list[tuple[str, int, Outcome]] = []
        self.gave_up: list[tuple[str, int]] = []
        self.ledger_down = 0
        self.limits = Limits(suspect_s=30.0, start_by_s=5.0)
        self.local = LocalUpstream(
            limits=lambda: self.limits,
            abort_timeout_s=lambda: 2.0,
            settled=self.settle,
            gave_up=lambda call_id, n: self.gave_up.append((call_id, n)),
        )
        self.far = Far()
        self.local.connected(self.far)
        self.tasks: list[asyncio.Task[Outcome]] = []

    async def settle(self, call_id: str, n: int, outcome: Outcome) -> None:
        await asyncio.sleep(0.001)
        if self.ledger_down:
            self.ledger_down -= 1
            raise OSError("disk full")
        self.settled.append((call_id, n, outcome))

    def attempt(self, call_id: str = "c1", n: int = 1, effect: Effect = Effect.WRITE) -> Attempt:
        call = Call(call_id, "local.search", {}, Agent("a", instance="i1"), origin=self.far.id)
        return Attempt(call, n, "local.search", effect)

    async def send(self, attempt: Attempt, plan: Plan = PLAN, timeout_s: float = 8.0) -> asyncio.Task[Outcome]:
        """Begin a sending and let it get as far as its wait."""
        task = asyncio.create_task(self.local.send(attempt, plan, timeout_s))
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def interrupt(self, task: asyncio.Task[Outcome], attempt: Attempt, why: str = "killed") -> Outcome:
        """What the pipeline does when a verdict or a timeout ends its wait."""
        task.cancel()
        await asyncio.wait({task})
        return await self.local.stopped(attempt, PLAN, why)

    def lose(self) -> None:
        self.far.up = False
        self.local.lost(self.far.id)

    def back(self, running: set[tuple[str, int]] = frozenset(), unacked: tuple[Finished, ...] = ()) -> None:  # type: ignore[assignment]
        self.far.up = True
        self.local.connected(self.far, running, unacked)


def acked(world: World) -> list[tuple[str, int]]:
    return [(frame.call, frame.n) for frame in world.far.sent(Ack)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.local.close()
    for task in world.tasks:
        task.cancel()
    await asyncio.gather(*world.tasks, return_exceptions=True)


# ── the ordinary way ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_effect_is_executed_and_its_result_awaited(world: World) -> None:
    """The execute frame says how; the adapter's finished is the outcome; the ack waits for the ledger."""
    attempt = world.attempt()
    task = await world.send(attempt)
    assert attempt.sent
    (execute,) = world.far.sent(Execute)
    assert execute == Execute(
        "ref-c1", "c1", 1, timeout_ms=8000, start_by_ms=5000, on_ok="await", placement="thread", composite=False
    )
    world.local.finished(world.far, Finished("c1", 1, view={"hits": 3}, digest="d" * 64, size=10))
    outcome = await task
    assert outcome.kind is OK and outcome.value == {"hits": 3} and outcome.use == 1
    assert (outcome.result_digest, outcome.result_bytes) == ("d" * 64, 10)
    assert not world.far.sent(Ack)
    world.local.recorded("c1", 1)
    assert acked(world) == [("c1", 1)]
    assert not world.local.holds(world.far.id) and attempt.still_running is None


@pytest.mark.parametrize(
    ("plan", "effect", "expected"),
    [
        (PLAN, Effect.READ, {"on_ok": "report", "timeout_ms": 1500}),
        (PLAN, Effect.IDEMPOTENT, {"on_ok": "await", "timeout_ms": 1500}),
        (replace(PLAN, composite=True), Effect.WRITE, {"composite": True, "timeout_ms": 0}),
        (replace(PLAN, placement="caller"), Effect.WRITE, {"placement": "caller"}),
    ],
)
async def test_the_plan_decides_how_it_is_executed(
    world: World, plan: Plan, effect: Effect, expected: dict[str, Any]
) -> None:
    """A read may be handed on at once; a composite has no per-try timeout; placement is passed on."""
    await world.send(world.attempt(effect=effect), plan, 1.5)
    (execute,) = world.far.sent(Execute)
    assert {key: getattr(execute, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("finished", "kind", "reason", "code"),
    [
        (
            Finished("c1", 1, "raised", Raised("builtins.ValueError", "no")),
            DEFINITE,
            Reason.RAISED,
            Code.UPSTREAM_FAILED,
        ),
        (
            Finished("c1", 1, "raised", Raised("builtins.ConnectionRefusedError")),
            NOT_EXECUTED,
            Reason.CONNECT,
            Code.UPSTREAM_FAILED,
        ),
        (Finished("c1", 1, "raised", Raised("builtins.TimeoutError")), UNKNOWN, Reason.TIMEOUT, Code.OUTCOME_UNKNOWN),
        (Finished("c1", 1, "raised"), DEFINITE, Reason.RAISED, Code.UPSTREAM_FAILED),
        (Finished("c1", 1, "not_started"), NOT_EXECUTED, Reason.NOT_STARTED, Code.UPSTREAM_FAILED),
        (Finished("c1", 1, "timed_out"), UNKNOWN, Reason.TIMEOUT, Code.OUTCOME_UNKNOWN),
        (Finished("c1", 1, "cancelled"), UNKNOWN, Reason.STOPPED, Code.OUTCOME_UNKNOWN),
    ],
)
async def test_every_end_that_is_not_a_result_has_its_outcome(
    world: World, finished: Finished, kind: OutcomeKind, reason: Reason, code: Code
) -> None:
    """What was proven not to have run, what may have, and what failed."""
    task = await world.send(world.attempt())
    world.local.finished(world.far, finished)
    outcome = await task
    assert outcome.failure is not None
    assert (outcome.kind, outcome.failure.reason, outcome.code) == (kind, reason, code)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("raised", OutcomeKind.DEFINITE),
        ("returned", OutcomeKind.DEFINITE),
        ("not_started", OutcomeKind.DEFINITE),
        ("cancelled", OutcomeKind.UNKNOWN),
        ("timed_out", OutcomeKind.UNKNOWN),
        ("suspended", OutcomeKind.SUSPENDED),
    ],
)
def test_an_exception_told_beside_a_state_is_not_proof_against_it(state: Any, kind: OutcomeKind) -> None:
    """A cancelled write that raised because it was cancelled may have run; one that is said not to have begun did."""
    frame = Finished("c1", 1, state, Raised("builtins.ValueError", "no"))
    assert of_finished(frame, Effect.WRITE).kind is kind


@pytest.mark.parametrize(
    ("effect", "proves", "kind", "reason", "code"),
    [
        (Effect.WRITE, "not_executed", NOT_EXECUTED, Reason.CONNECT, Code.UPSTREAM_FAILED),
        (Effect.WRITE, "unknown", UNKNOWN, Reason.RESET, Code.OUTCOME_UNKNOWN),
        (Effect.KEYED, "unknown", UNKNOWN, Reason.RESET, Code.OUTCOME_UNKNOWN),
        (Effect.IDEMPOTENT, "unknown", NOT_EXECUTED, Reason.CONNECT, Code.UPSTREAM_FAILED),
        (Effect.READ, "unknown", NOT_EXECUTED, Reason.CONNECT, Code.UPSTREAM_FAILED),
    ],
)
async def test_the_policy_says_what_a_failed_connection_inside_a_function_proves(
    world: World, effect: Effect, proves: Any, kind: OutcomeKind, reason: Reason, code: Code
) -> None:
    """A function that wrote something first, and then met a refused connection, has run."""
    task = await world.send(world.attempt(effect=effect), replace(PLAN, connect_errors=proves))
    world.local.finished(world.far, Finished("c1", 1, "raised", Raised("builtins.ConnectionRefusedError")))
    outcome = await task
    assert outcome.failure is not None
    assert (outcome.kind, outcome.failure.reason, outcome.code) == (kind, reason, code)


async def test_a_failed_connection_of_which_no_plan_is_remembered_proves_nothing(world: World) -> None:
    """After a restart: it may be one of those that ran in part."""
    world.local.recover({("old", 1): "i1"})
    world.back(unacked=(Finished("old", 1, "raised", Raised("builtins.ConnectionRefusedError")),))
    await asyncio.sleep(0.01)
    ((_, _, outcome),) = world.settled
    assert outcome.kind is UNKNOWN


async def test_what_a_function_says_of_a_status_and_a_wait_is_kept(world: World) -> None:
    """``retryOn: [http-503]`` and ``Retry-After`` work for functions too."""
    task = await world.send(world.attempt(effect=Effect.READ))
    raised = Raised("requests.exceptions.HTTPError", "busy", status=503, retry_after_s=7.0)
    world.local.finished(world.far, Finished("c1", 1, "raised", raised))
    outcome = await task
    assert outcome.failure is not None and (outcome.failure.status, outcome.failure.retry_after_s) == (503, 7.0)


async def test_a_suspended_tool_is_neither_failed_nor_ok(world: World) -> None:
    """The framework interrupted itself to ask a person: its own object is handed back."""
    task = await world.send(world.attempt())
    world.local.finished(world.far, Finished("c1", 1, "suspended", view="approve?"))
    outcome = await task
    assert (outcome.kind, outcome.use, outcome.value, outcome.failure) == (SUSPENDED, 1, "approve?", None)


async def test_an_unknown_end_of_a_read_is_a_plain_failure(world: World) -> None:
    """Nothing is in doubt that matters."""
    task = await world.send(world.attempt(effect=Effect.READ))
    world.local.finished(world.far, Finished("c1", 1, "timed_out"))
    assert (await task).code is Code.UPSTREAM_FAILED


# ── what cannot be sent ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", ["nobody", "other", "down", "closed"])
async def test_a_call_without_its_process_is_not_executed(world: World, case: str) -> None:
    """A call over plain HTTP, another session's, a broken connection, a call that is not open any more."""
    attempt = world.attempt()
    if case in ("nobody", "other"):
        attempt.call = replace(attempt.call, origin="" if case == "nobody" else "s-2")
    elif case == "down":
        world.lose()
    else:
        world.far.closed.add("c1")
    outcome = await world.local.send(attempt, PLAN, 1.0)
    assert (outcome.kind, outcome.code) == (NOT_EXECUTED, Code.AGENT_GONE) and not attempt.sent
    assert (await world.local.stopped(attempt, PLAN, "killed")).kind is NOT_EXECUTED


async def test_a_process_is_only_asked_for_the_function_it_offered(world: World) -> None:
    """A fallback to another in-process function cannot be told to the adapter, and is not sent."""
    attempt = replace(world.attempt(), tool="local.other")
    outcome = await world.local.send(attempt, PLAN, 1.0)
    assert outcome.kind is NOT_EXECUTED and not world.far.frames


async def test_one_attempt_is_never_sent_twice(world: World) -> None:
    """The same call and number again is a bug, and is refused."""
    await world.send(world.attempt())
    again = await world.local.send(world.attempt(), PLAN, 1.0)
    assert (again.kind, again.code) == (NOT_EXECUTED, Code.INTERNAL) and len(world.far.sent(Execute)) == 1


async def test_attempts_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full: refused; but ends that the ledger never confirmed make room."""
    monkeypatch.setattr(local_module, "MAX_ATTEMPTS", 2)
    first = await world.send(world.attempt("c1"))
    await world.send(world.attempt("c2"))
    assert (await world.local.send(world.attempt("c3"), PLAN, 1.0)).code is Code.OVERLOADED
    world.local.finished(world.far, Finished("c1", 1))
    await first
    await world.send(world.attempt("c4"))
    assert [frame.call for frame in world.far.sent(Execute)] == ["c1", "c2", "c4"]


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_not_started_is_a_proof(world: World) -> None:
    """The abort handshake: nothing ran, nothing runs on, nothing is acked that nobody reported."""
    attempt = world.attempt()
    task = await world.send(attempt)

    def answer(frame: FromGateway) -> None:
        if isinstance(frame, Abort):
            world.local.aborted(world.far, Aborted("c1", 1, "not_started"))

    world.far.on_push = answer
    outcome = await world.interrupt(task, attempt)
    assert outcome.kind is NOT_EXECUTED and world.far.sent(Abort) == [Abort("c1", 1, "killed")]
    world.local.recorded("c1", 1)
    assert not world.far.sent(Ack) and attempt.still_running is None and not world.local.holds(world.far.id)


async def test_a_function_that_runs_is_unknown_and_holds_its_slot_until_it_ends(world: World) -> None:
    """A thread cannot be stopped."""
    attempt = world.attempt()
    task = await world.send(attempt)
    stopping = asyncio.create_task(world.interrupt(task, attempt, "timeout"))
    await asyncio.sleep(0.5)
    world.local.aborted(world.far, Aborted("c1", 1, "running"))
    outcome = await stopping
    assert outcome.kind is UNKNOWN and outcome.failure is not None and outcome.failure.reason is Reason.TIMEOUT
    assert attempt.still_running is not None and not attempt.still_running.done()
    world.local.recorded("c1", 1)
    assert not attempt.still_running.done()
    world.local.ended(world.far, Ended("c1", 1))
    assert attempt.still_running.done() and not world.local.holds(world.far.id)


async def test_done_waits_for_the_real_end(world: World) -> None:
    """It had ended before the abort came: the result that is on its way is the outcome."""
    attempt = world.attempt()
    task = await world.send(attempt)
    stopping = asyncio.create_task(world.interrupt(task, attempt))
    await asyncio.sleep(0.1)
    world.local.aborted(world.far, Aborted("c1", 1, "done"))
    await asyncio.sleep(0.1)
    world.local.finished(world.far, Finished("c1", 1, view=42))
    outcome = await stopping
    assert (outcome.kind, outcome.value) == (OK, 42)


@pytest.mark.parametrize("answer", [None, "done"])
async def test_the_handshake_is_bounded(world: World, answer: str | None, looptime: Any) -> None:
    """A frozen process, and one that promises an end and never tells it: unknown after the abort timeout."""
    attempt = world.attempt()
    task = await world.send(attempt)
    stopping = asyncio.create_task(world.interrupt(task, attempt))
    await asyncio.sleep(0.1)
    if answer is not None:
        world.local.aborted(world.far, Aborted("c1", 1, "done"))
    outcome = await stopping
    assert outcome.kind is UNKNOWN and looptime == pytest.approx(2.0, abs=0.2)
    assert (attempt.still_running is not None) == (answer is None)


@pytest.mark.parametrize(
    ("before", "then", "held"),
    [
        ("aborting", "running", True),
        ("aborting", "timed_out", True),
        ("aborting", "over", False),
        ("lost", "timed_out", True),
        ("lost", "missing", False),
        ("lost", "over", False),
        ("finishing", "timed_out", True),
        ("finishing", "missing", False),
        ("finishing", "over", False),
    ],
)
async def test_a_stop_is_answered_as_soon_as_no_more_can_be_learnt(
    world: World, before: str, then: str, held: bool, looptime: Any
) -> None:
    """A receipt does not wait out the abort timeout for what is plain by now; a thread that may run on is held."""
    attempt = world.attempt()
    task = await world.send(attempt)
    if before == "lost":
        world.lose()
    stopping = asyncio.create_task(world.interrupt(task, attempt))
    await asyncio.sleep(0.1)
    if before == "finishing":
        world.local.aborted(world.far, Aborted("c1", 1, "done"))
    if then == "running":
        world.local.aborted(world.far, Aborted("c1", 1, "running"))
    elif then == "timed_out" and before == "lost":
        world.back(running={("c1", 1)}, unacked=(Finished("c1", 1, "timed_out"),))
    elif then == "timed_out":
        world.local.finished(world.far, Finished("c1", 1, "timed_out"))
    elif then == "missing":
        world.back()
    else:
        world.local.over(world.far.id)
    assert (await stopping).kind is UNKNOWN and looptime == pytest.approx(0.1)
    assert (attempt.still_running is not None) == held


async def test_a_result_that_came_in_the_moment_of_the_kill_is_kept(world: World) -> None:
    """``finished`` and the interruption in one turn of the loop: what happened is told."""
    attempt = world.attempt()
    task = await world.send(attempt)
    world.local.finished(world.far, Finished("c1", 1, view="real"))
    outcome = await world.interrupt(task, attempt)
    assert (outcome.kind, outcome.value) == (OK, "real") and not world.far.sent(Abort)


async def test_a_cancelled_coroutine_frees_its_slot_and_settles_nothing(world: World) -> None:
    """After ``running``, ``finished: cancelled`` says that it ended, and nothing else that is new."""
    attempt = world.attempt()
    task = await world.send(attempt)
    stopping = asyncio.create_task(world.interrupt(task, attempt))
    await asyncio.sleep(0.1)
    world.local.aborted(world.far, Aborted("c1", 1, "running"))
    await stopping
    world.local.finished(world.far, Finished("c1", 1, "cancelled"))
    assert attempt.still_running is not None and attempt.still_running.done()
    assert not world.far.sent(Ack)
    world.local.recorded("c1", 1)
    await asyncio.sleep(1)
    assert acked(world) == [("c1", 1)] and world.settled == []


async def test_a_late_truth_is_written_behind_the_recorded_end(world: World) -> None:
    """Told unknown; then it turns out. Never before the unknown end has its place in the ledger, acked when durable."""
    attempt = world.attempt()
    task = await world.send(attempt)
    stopping = asyncio.create_task(world.interrupt(task, attempt))
    await asyncio.sleep(0.1)
    world.local.aborted(world.far, Aborted("c1", 1, "running"))
    outcome = await stopping
    world.local.finished(world.far, Finished("c1", 1, view="late"))
    await asyncio.sleep(1)
    assert outcome.kind is UNKNOWN and world.settled == []
    world.local.recorded("c1", 1)
    assert not world.far.sent(Ack)
    await asyncio.sleep(1)
    assert [(call, n, late.value) for call, n, late in world.settled] == [("c1", 1, "late")]
    assert acked(world) == [("c1", 1)] and not world.local.holds(world.far.id)


async def test_giving_up_on_what_was_given_up_is_acked_at_once(world: World) -> None:
    """The adapter's own timer passes after the kill: nothing new, and durable already. Then its process forgets it."""
    attempt = world.attempt()
    task = await world.send(attempt)
    assert (await world.interrupt(task, attempt)).kind is UNKNOWN
    world.local.recorded("c1", 1)
    world.local.finished(world.far, Finished("c1", 1, "timed_out"))
    assert acked(world) == [("c1", 1)]
    assert attempt.still_running is not None and not attempt.still_running.done()
    world.lose()
    world.back()
    assert attempt.still_running.done() and not world.local.holds(world.far.id)


async def test_a_late_proof_that_it_never_began_is_settled_too(world: World) -> None:
    """The process was frozen and answers the abort after the receipt was written."""
    attempt = world.attempt()
    task = await world.send(attempt)
    assert (await world.interrupt(task, attempt)).kind is UNKNOWN
    world.local.recorded("c1", 1)
    world.local.aborted(world.far, Aborted("c1", 1, "not_started"))
    await asyncio.sleep(1)
    assert [late.kind for _, _, late in world.settled] == [NOT_EXECUTED]
    assert attempt.still_running is not None and attempt.still_running.done()


async def test_a_ledger_that_refuses_is_asked_again(world: World) -> None:
    """The adapter is told to forget only what was written."""
    attempt = world.attempt()
    task = await world.send(attempt)
    world.local.finished(world.far, Finished("c1", 1, "timed_out"))
    assert (await task).kind is UNKNOWN
    world.local.recorded("c1", 1)
    assert len(world.far.sent(Ack)) == 1  # of timed_out
    world.ledger_down = 3
    world.local.finished(world.far, Finished("c1", 1, view="late"))
    await asyncio.sleep(3)
    assert len(world.far.sent(Ack)) == 1
    await asyncio.sleep(5)
    assert [frame.state for frame in world.far.sent(Ack)] == ["timed_out", "returned"] and len(world.settled) == 1


# ── broken connections ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_process_that_is_back_goes_on_as_if_nothing_happened(world: World) -> None:
    """The wait outlives the connection."""
    task = await world.send(world.attempt())
    world.lose()
    await asyncio.sleep(20)
    world.back(running={("c1", 1)})
    assert not task.done()
    world.local.finished(world.far, Finished("c1", 1, view="ok"))
    assert (await task).value == "ok" and len(world.far.sent(Execute)) == 1


async def test_a_process_that_is_back_is_aborted_like_any_other(world: World) -> None:
    """A reconnection leaves nothing behind that would change what a kill does."""
    attempt = world.attempt()
    task = await world.send(attempt)
    world.lose()
    world.back(running={("c1", 1)})
    stopping = asyncio.create_task(world.interrupt(task, attempt))
    await asyncio.sleep(0.1)
    assert world.far.sent(Abort) == [Abort("c1", 1, "killed")]
    world.local.aborted(world.far, Aborted("c1", 1, "not_started"))
    assert (await stopping).kind is NOT_EXECUTED


async def test_what_ended_meanwhile_is_told_by_hello(world: World) -> None:
    """``unacked`` carries the end; the second telling is acked like the first."""
    task = await world.send(world.attempt())
    world.lose()
    world.back(unacked=(Finished("c1", 1, view="ok"),))
    assert (await task).value == "ok"
    world.lose()
    world.back(unacked=(Finished("c1", 1, view="ok"),))
    world.local.recorded("c1", 1)
    assert acked(world) == [("c1", 1)] and world.settled == []


async def test_an_attempt_the_process_does_not_know_any_more_is_unknown(world: World) -> None:
    """It came back and mentions it nowhere."""
    attempt = world.attempt()
    task = await world.send(attempt)
    world.lose()
    world.back()
    outcome = await task
    assert outcome.kind is UNKNOWN and outcome.failure is not None and outcome.failure.reason is Reason.RESET
    assert attempt.still_running is None


async def test_a_process_that_is_gone_leaves_unknown_behind(world: World) -> None:
    """The window passed, or it said goodbye with a function running. Its slots are free: nobody is left to run."""
    attempt, stuck = world.attempt("c1"), world.attempt("c2")
    task, stuck_task = await world.send(attempt), await world.send(stuck)
    assert (await world.interrupt(stuck_task, stuck)).kind is UNKNOWN
    world.lose()
    world.local.over(world.far.id)
    outcome = await task
    assert outcome.kind is UNKNOWN and outcome.failure is not None and outcome.failure.reason is Reason.AGENT_GONE
    assert stuck.still_running is not None and stuck.still_running.done()
    for call in ("c1", "c2"):
        world.local.recorded(call, 1)
    assert not world.local.holds(world.far.id)


async def test_a_process_that_comes_back_after_its_window_still_tells_the_truth(world: World) -> None:
    """Its spool outlived the window: the end is settled and acked."""
    task = await world.send(world.attempt())
    world.lose()
    world.local.over(world.far.id)
    assert (await task).kind is UNKNOWN
    world.back(unacked=(Finished("c1", 1, view="late"),))
    world.local.recorded("c1", 1)
    await asyncio.sleep(1)
    assert [late.value for _, _, late in world.settled] == ["late"] and acked(world) == [("c1", 1)]


@pytest.mark.parametrize("recorded_before", [True, False])
async def test_a_kill_while_the_connection_is_broken_is_bounded_and_repeated_when_it_is_back(
    world: World, looptime: Any, recorded_before: bool
) -> None:
    """Unknown after the abort timeout; the process is told to stop the moment it returns, so that nothing begins."""
    attempt = world.attempt()
    task = await world.send(attempt)
    world.lose()
    outcome = await world.interrupt(task, attempt)
    assert outcome.kind is UNKNOWN and looptime == pytest.approx(2.0, abs=0.1)
    if recorded_before:
        world.local.recorded("c1", 1)
    world.back(running={("c1", 1)})
    assert world.far.sent(Abort) == [Abort("c1", 1, "killed")]


async def test_a_kill_waits_for_a_process_that_is_back_in_time(world: World) -> None:
    """The handshake goes on over the reconnection."""
    attempt = world.attempt()
    task = await world.send(attempt)
    world.lose()
    stopping = asyncio.create_task(world.interrupt(task, attempt))
    await asyncio.sleep(1)
    world.back(running={("c1", 1)})
    assert world.far.sent(Abort) == [Abort("c1", 1, "killed")]
    world.local.aborted(world.far, Aborted("c1", 1, "not_started"))
    assert (await stopping).kind is NOT_EXECUTED


async def test_a_connection_that_breaks_in_the_middle_of_a_handshake_does_not_lose_the_abort(world: World) -> None:
    """The abort was under way when the connection broke: it is sent again."""
    attempt = world.attempt()
    task = await world.send(attempt)
    stopping = asyncio.create_task(world.interrupt(task, attempt))
    await asyncio.sleep(0.1)
    world.lose()
    world.back(running={("c1", 1)})
    assert len(world.far.sent(Abort)) == 2
    world.local.aborted(world.far, Aborted("c1", 1, "running"))
    assert (await stopping).kind is UNKNOWN


async def test_an_adapter_that_gave_up_waiting_meanwhile_keeps_its_slot(world: World) -> None:
    """``timed_out`` may come by hello too, and in the middle of a handshake: the thread still runs."""
    for call_id, stop in (("c1", False), ("c2", True)):
        attempt = world.attempt(call_id)
        task = await world.send(attempt)
        world.lose()
        stopping = asyncio.create_task(world.interrupt(task, attempt)) if stop else task
        await asyncio.sleep(0.1)
        world.back(running={("c1", 1), (call_id, 1)}, unacked=(Finished(call_id, 1, "timed_out"),))
        assert (await stopping).kind is UNKNOWN
        assert attempt.still_running is not None and not attempt.still_running.done()


async def test_the_first_finished_wins(world: World) -> None:
    """A second one changes nothing, whatever it says, and is acked with the first."""
    task = await world.send(world.attempt())
    world.local.finished(world.far, Finished("c1", 1, view="first"))
    world.local.finished(world.far, Finished("c1", 1, "raised", Raised("builtins.ValueError")))
    assert (await task).value == "first"
    world.local.recorded("c1", 1)
    assert acked(world) == [("c1", 1)]


async def test_another_process_cannot_end_it(world: World) -> None:
    """Frames count only from the session that the attempt was sent to."""
    task = await world.send(world.attempt())
    other = Far("s-2", "i2")
    world.local.connected(other)
    assert not world.local.finished(other, Finished("c1", 1, view="forged"))
    assert not world.local.aborted(other, Aborted("c1", 1, "not_started"))
    assert not world.local.ended(other, Ended("c1", 1))
    await asyncio.sleep(1)
    assert not task.done() and world.settled == []


# ── what a former incarnation left open ──────────────────────────────────────────────────────────────────────────


async def test_a_function_that_outlived_the_sidecar_is_recorded(world: World) -> None:
    """It ran on; its end comes by ``finished``, long after the window, and is written before it is acked."""
    world.local.recover({("old", 1): "i1"})
    world.back(running={("old", 1)})
    await asyncio.sleep(100)
    assert world.gave_up == []
    world.local.finished(world.far, Finished("old", 1, view="real"))
    assert not world.far.sent(Ack)
    await asyncio.sleep(1)
    assert [(call, n, end.value) for call, n, end in world.settled] == [("old", 1, "real")]
    assert acked(world) == [("old", 1)] and world.gave_up == []


async def test_attempts_that_nobody_claims_are_given_up_after_the_window(world: World) -> None:
    """Once each, and only then."""
    world.local.recover({("old", 1): "i9", ("old", 2): "", ("told", 1): "i1"})
    world.back(unacked=(Finished("told", 1),))
    await asyncio.sleep(29)
    assert world.gave_up == []
    await asyncio.sleep(2)
    assert sorted(world.gave_up) == [("old", 1), ("old", 2)]
    await asyncio.sleep(100)
    assert len(world.gave_up) == 2 and [call for call, _, _ in world.settled] == ["told"]


async def test_a_process_that_does_not_know_its_old_attempt_ends_the_waiting(world: World) -> None:
    """It is back, and mentions it nowhere: no need to wait for the window."""
    world.local.recover({("old", 1): "i1", ("other", 1): "i2", ("anyone", 1): ""})
    world.back()
    assert world.gave_up == [("old", 1)]


async def test_a_claimed_attempt_is_given_up_when_its_process_dies(world: World) -> None:
    """The window does not pass for ever."""
    world.local.recover({("old", 1): "i1"})
    world.back(running={("old", 1)})
    await asyncio.sleep(60)
    world.lose()
    world.local.over(world.far.id)
    assert world.gave_up == [("old", 1)]


async def test_another_instance_cannot_claim_or_end_an_old_attempt(world: World) -> None:
    """The ledger knows which instance ran it."""
    world.local.recover({("old", 1): "i2"})
    world.back(running={("old", 1)})
    assert not world.local.finished(world.far, Finished("old", 1, view="forged"))
    await asyncio.sleep(31)
    assert world.gave_up == [("old", 1)] and world.settled == []


async def test_an_end_that_nobody_here_remembers_is_asked_of_the_ledger_and_acked(world: World) -> None:
    """An ack was lost: the adapter tells again what is long recorded."""
    world.local.finished(world.far, Finished("forgotten", 3))
    world.local.finished(world.far, Finished("forgotten", 3))
    await asyncio.sleep(1)
    assert acked(world) == [("forgotten", 3)]


async def test_an_end_that_is_told_again_after_its_ack_was_lost_is_acked_again(world: World) -> None:
    """It is durable, and nothing new: the ledger is not troubled. So many are remembered, and no more."""
    task = await world.send(world.attempt())
    world.local.finished(world.far, Finished("c1", 1))
    await task
    world.local.recorded("c1", 1)
    world.lose()
    world.back(unacked=(Finished("c1", 1),))
    await asyncio.sleep(1)
    assert acked(world) == [("c1", 1), ("c1", 1)] and world.settled == []


async def test_what_is_remembered_for_lost_acks_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, and then asked of the ledger like any other."""
    monkeypatch.setattr(local_module, "MAX_KNOWN", 2)
    for number in range(3):
        task = await world.send(world.attempt(f"c{number}"))
        world.local.finished(world.far, Finished(f"c{number}", 1))
        await task
        world.local.recorded(f"c{number}", 1)
    for number in range(3):
        world.local.finished(world.far, Finished(f"c{number}", 1))
    await asyncio.sleep(1)
    assert [call for call, _, _ in world.settled] == ["c0"] and len(acked(world)) == 6


async def test_timed_out_and_then_the_truth_are_both_told(world: World) -> None:
    """Two ends of one pair in quick succession: the second is not lost behind the first."""
    world.local.recover({("old", 1): "i1"})
    world.local.finished(world.far, Finished("old", 1, "timed_out"))
    world.local.finished(world.far, Finished("old", 1, view="real"))
    await asyncio.sleep(1)
    assert [end.kind for _, _, end in world.settled] == [UNKNOWN, OK]
    assert acked(world) == [("old", 1)]


async def test_no_news_about_a_forgotten_attempt_does_not_stand_in_for_its_truth(world: World) -> None:
    """ "unknown" is what the ledger says already: acked, not written, so that the truth can still be."""
    world.local.finished(world.far, Finished("old", 1, "timed_out"))
    await asyncio.sleep(1)
    assert acked(world) == [("old", 1)] and world.settled == []
    world.local.finished(world.far, Finished("old", 1, view="real"))
    await asyncio.sleep(1)
    assert [end.kind for _, _, end in world.settled] == [OK]


async def test_close_ends_every_wait(world: World) -> None:
    """Nothing hangs when the sidecar goes; what was not written stays with the adapters."""
    task = await world.send(world.attempt())
    world.ledger_down = 10**6
    world.local.finished(world.far, Finished("old", 1))
    await world.local.close()
    assert (await task).kind is UNKNOWN
    assert not world.far.sent(Ack)


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_pipeline_is_told_exactly_on_leaving_the_waiting_states() -> None:
    """Every way out of waiting tells once; no other transition tells."""
    for (state, event), (after, todo) in TABLE.items():
        tells = sum(do in (Do.TELL, Do.TELL_UNKNOWN) for do in todo)
        assert tells == (state in WAITING and after not in WAITING), (state, event)


def test_what_is_held_is_released_on_every_way_to_the_end() -> None:
    """No path from a held slot to CLOSED misses the release: search over all paths."""
    seen: set[tuple[State, bool]] = set()
    todo: list[tuple[State, bool]] = [(State.EXECUTING, False)]
    while todo:
        state, held = todo.pop()
        if (state, held) in seen:
            continue
        seen.add((state, held))
        assert not (state is State.CLOSED and held)
        for event in Event:
            after, deeds = step(state, event)
            todo.append((after, (held or Do.HOLD in deeds) and Do.RELEASE not in deeds))
    assert {state for state, _ in seen} == set(State), "a state that cannot be reached"


def test_every_waiting_state_is_ended_by_the_process_being_gone() -> None:
    """No attempt waits for a process that will never speak again."""
    for state in WAITING:
        assert step(state, Event.OVER)[0] not in WAITING


def test_acks_follow_durability_only() -> None:
    """Every ack is on a transition by ``recorded`` or ``settled``, or out of a state whose end is durable."""
    durable = {State.ADRIFT, State.SETTLING}
    for (state, event), (_, todo) in TABLE.items():
        if Do.ACK in todo:
            assert event in (Event.RECORDED, Event.SETTLED) or state in durable
