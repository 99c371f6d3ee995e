"""The channel over a real WebSocket: greeting, calls, broken connections, bad frames, the end.

The supervisor is a stand-in of this file: it runs calls of ``local`` through the driver, and answers the others itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar, cast

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from outrider import channel as channel_module
from outrider import clock
from outrider import sessions as sessions_module
from outrider.agents import Agents
from outrider.calls import Agent, Attempt, Call, Effect, Outcome, OutcomeKind
from outrider.channel import MAX_MALFORMED, Channel
from outrider.errors import Code, problem
from outrider.flight import Cause, Flight, Verdict
from outrider.identity.credential import shared
from outrider.policy.load import Policy
from outrider.policy.plans import Limits, Plan, Upstream
from outrider.upstreams.local import LocalUpstream
from outrider.wire import (
    FRAME_BYTES,
    PROTOCOL,
    VIEW_BYTES,
    Abort,
    Aborted,
    Ack,
    Bye,
    Cancel,
    Closed,
    Ended,
    Execute,
    Finished,
    FromAdapter,
    FromGateway,
    Heartbeat,
    Hello,
    Lifecycle,
    Open,
    ProblemFrame,
    Running,
    Welcome,
    decode_from_gateway,
    encode_frame,
)
from outrider.wire import Limits as ChannelLimits

F = TypeVar("F")
PATIENCE_S = 5.0
UPSTREAM = Upstream("local")


class StandIn:
    """Just enough of a supervisor: ``local.*`` runs once through the driver, ``made.*`` is answered here."""

    def __init__(self) -> None:
        self.local: LocalUpstream
        self.calls: list[Call] = []
        self.flights: dict[str, Flight] = {}
        self.gone: list[str] = []
        self.release = asyncio.Event()
        self.made: Any = {"made": True}
        self.fails = False

    def submit(self, call: Call) -> Flight:
        if self.fails:
            raise RuntimeError("a bug")
        self.calls.append(call)
        flight = Flight(call, cast(Policy, None), received=clock.monotonic(), started_wall=clock.wall())
        flight.answer = asyncio.get_running_loop().create_future()
        flight.task = asyncio.get_running_loop().create_task(self._live(flight))
        self.flights[call.id] = flight
        return flight

    async def _live(self, flight: Flight) -> None:
        outcome = await (self._send(flight) if flight.call.upstream == "local" else self._make(flight))
        await asyncio.sleep(0)  # the ledger
        self.local.recorded(flight.call.id, 1)
        assert flight.answer is not None
        flight.answer.set_result(outcome)

    async def _send(self, flight: Flight) -> Outcome:
        effect = Effect.READ if flight.call.operation.startswith("read") else Effect.WRITE
        flight.attempts = 1
        attempt = Attempt(flight.call, 1, flight.call.tool, effect)
        plan = Plan(flight.call.tool, UPSTREAM, effect)
        with flight.stoppable(caller_may_leave=effect is Effect.READ):
            return await self.local.send(attempt, plan, 5.0)
        known = await self.local.stopped(attempt, plan, "killed")
        assert flight.verdict is not None
        return flight.verdict.stopped(known, "send")

    async def _make(self, flight: Flight) -> Outcome:
        if flight.call.operation == "wait":
            await self.release.wait()
        if flight.call.operation == "fail":
            return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.DENIED, detail="no", rule="nobody")
        return Outcome(OutcomeKind.OK, value=self.made)

    def caller_gone(self, flight: Flight) -> None:
        self.gone.append(flight.call.id)
        flight.stop(Verdict(Cause.CALLER_GONE, "The caller went away."))

    def problem(self, flight: Flight, outcome: Outcome) -> dict[str, Any]:
        code = outcome.code or Code.INTERNAL
        return problem(code, outcome.detail, outcome=outcome.kind.value, call_id=flight.call.id, rule=outcome.rule)


class Process:
    """An agent's process: a WebSocket client that speaks frames."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self.socket = socket

    async def say(self, *frames: FromAdapter) -> None:
        for frame in frames:
            await self.socket.send_str(encode_frame(frame).decode())

    async def hear(self, kind: type[F]) -> F:
        """The next frame, which must be of this kind."""
        message = await self.socket.receive(PATIENCE_S)
        assert message.type is WSMsgType.TEXT, message
        frame = decode_from_gateway.decode(cast(str, message.data))
        assert isinstance(frame, kind), frame
        return frame

    async def hear_all(self, count: int) -> list[FromGateway]:
        messages = [await self.socket.receive(PATIENCE_S) for _ in range(count)]
        return [decode_from_gateway.decode(cast(str, message.data)) for message in messages]

    async def end(self) -> int | None:
        """Wait until the other side closes; the close code."""
        message = await self.socket.receive(PATIENCE_S)
        assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING), message
        return self.socket.close_code

    @property
    def transport(self) -> asyncio.Transport:
        return cast(asyncio.Transport, self.socket._conn.transport)  # type: ignore[union-attr]

    async def vanish(self) -> None:
        """Die without a word."""
        self.transport.abort()
        await self.socket.close()


class World:
    """A sidecar's channel on a free port."""

    def __init__(self) -> None:
        self.limits = Limits(suspect_s=30.0)
        self.credential = shared()
        self.supervisor = StandIn()
        self.events: list[tuple[str, str]] = []
        self.settled: list[tuple[str, int, Outcome]] = []
        self.gave_up: list[tuple[str, int]] = []
        self.kills: tuple[str, ...] = ()
        self.processes: list[Process] = []
        self.agents = Agents(
            limits=lambda: self.limits, emit=lambda change, agent, data, rows: self.events.append((change, agent.name))
        )
        self.local = LocalUpstream(
            limits=lambda: self.limits,
            abort_timeout_s=lambda: 1.0,
            settled=self.settle,
            gave_up=lambda call_id, n: self.gave_up.append((call_id, n)),
        )
        self.supervisor.local = self.local
        self.channel = Channel(
            agents=self.agents,
            local=self.local,
            supervisor=self.supervisor,
            limits=lambda: self.limits,
            kills=lambda: self.kills,
            incarnation="inc-1",
        )

    async def settle(self, call_id: str, n: int, outcome: Outcome) -> None:
        self.settled.append((call_id, n, outcome))

    async def start(self) -> None:
        app = web.Application()

        async def channel(request: web.Request) -> web.StreamResponse:
            return await self.channel.handler(request, self.credential)

        app.router.add_get("/v1/channel", channel)
        self.runner = web.AppRunner(app, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}/v1/channel"
        self.http = aiohttp.ClientSession()

    async def stop(self) -> None:
        self.supervisor.release.set()
        await self.channel.close()
        await self.local.close()
        await self.http.close()
        await self.runner.cleanup()
        await asyncio.gather(*(flight.task for flight in self.supervisor.flights.values() if flight.task is not None))

    async def connect(self) -> Process:
        process = Process(await self.http.ws_connect(self.url, max_msg_size=4 * FRAME_BYTES, compress=15))
        self.processes.append(process)  # a connection nobody holds is closed
        return process

    async def join(self, key: str = "k" * 16, **fields: Any) -> Process:
        """Connect and be welcome."""
        process = await self.connect()
        await process.say(hello(key, **fields))
        await process.hear(Welcome)
        return process

    def open_refs(self) -> list[str]:
        return [ref for session in self.channel._sessions.values() for ref in session.opens]

    async def until(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                await asyncio.sleep(0.002)


def hello(key: str = "k" * 16, **fields: Any) -> Hello:
    named: dict[str, Any] = {"protocol": PROTOCOL, "agent": "researcher", "framework": "langgraph"}
    return Hello(session_key=key, **({"instance": f"i-{key[0]}"} | named | fields))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.start()
    yield world
    await world.stop()


# ── greeting ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_hello_is_answered_with_welcome(world: World) -> None:
    """The version, this sidecar's incarnation, the limits, and the kills that are engaged now."""
    world.kills = ("agent:evil-*", "tool:local.rm")
    process = await world.connect()
    await process.say(hello(agent="researcher"))
    welcome = await process.hear(Welcome)
    assert (welcome.protocol, welcome.incarnation, welcome.agent) == (PROTOCOL, "inc-1", "researcher")
    assert welcome.kills == world.kills and welcome.limits.frame_bytes == FRAME_BYTES
    assert world.events == [("seen", "researcher"), ("connected", "researcher")] and world.channel.connected == 1
    assert process.socket.compress == 0


async def test_a_newer_adapter_that_still_speaks_our_version_is_welcome(world: World) -> None:
    """The version is negotiated down; its unknown fields are ignored."""
    process = await world.connect()
    frame = json.loads(encode_frame(hello(protocol=PROTOCOL + 3, oldest_protocol=PROTOCOL)))
    await process.socket.send_str(json.dumps(frame | {"shoe_size": 43}))
    assert (await process.hear(Welcome)).protocol == PROTOCOL


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (hello(protocol=0), "newer outrider where the agent runs"),
        (hello(protocol=PROTOCOL + 3, oldest_protocol=PROTOCOL + 2), "newer outrider where the sidecar runs"),
        (hello(agent=""), "no agent"),
        (hello(agent="a" * 201), "longer than 200"),
        (hello(agent="a\nb"), "cannot be printed"),
        (hello(agent="a "), "'agent' has blanks around it"),
        (hello(instance=""), "no instance"),
        (hello("short"), "shorter than 16"),
        (Heartbeat(), "not hello"),
        ("{not json", "not one of the channel's"),
    ],
)
async def test_a_greeting_that_cannot_be_is_refused_for_good(world: World, frame: Any, says: str) -> None:
    """A fatal problem that says how to mend it, and the end of the connection."""
    process = await world.connect()
    await (process.socket.send_str(frame) if isinstance(frame, str) else process.say(frame))
    refusal = await process.hear(ProblemFrame)
    assert refusal.fatal and says in refusal.problem["detail"] and refusal.problem["code"] == "invalid_request"
    assert await process.end() == 1008
    assert world.channel.connected == 0


async def test_a_connection_that_says_nothing_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may not sit there for ever."""
    monkeypatch.setattr(channel_module, "HELLO_S", 0.05)
    process = await world.connect()
    assert "No hello" in (await process.hear(ProblemFrame)).problem["detail"]
    assert await process.end() == 1013


async def test_processes_are_bounded(world: World) -> None:
    """One too many is told to try later; one that is back is not one more."""
    world.limits = Limits(max_channels=2)
    first = await world.join("a" * 16)
    await world.join("b" * 16)
    process = await world.connect()
    await process.say(hello("c" * 16))
    refusal = await process.hear(ProblemFrame)
    assert not refusal.fatal and refusal.problem["code"] == "overloaded" and refusal.problem["retryable"]
    await world.join("a" * 16)
    await first.end()
    assert world.channel.connected == 2


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_in_process_call_goes_its_whole_way(world: World) -> None:
    """open → execute → finished → ack → closed with ``use``: the result never leaves the process."""
    process = await world.join()
    await process.say(Open("r1", "local.search", {"q": "x"}, run="run-1", session="t-1", caller_ref="tc-1"))
    execute = await process.hear(Execute)
    (call,) = world.supervisor.calls
    assert (execute.ref, execute.call, execute.n, execute.on_ok, execute.args) == ("r1", call.id, 1, "await", None)
    await process.say(Finished(call.id, 1, view={"hits": 3}, digest="d" * 64, size=9))
    assert await process.hear(Ack) == Ack(call.id, 1, "returned")
    assert await process.hear(Closed) == Closed("r1", call.id, "ok", use=1, attempts=1)
    assert (call.args, call.run, call.session, call.caller_ref) == ({"q": "x"}, "run-1", "t-1", "tc-1")
    assert call.principal.name == "channel:i-k" and call.origin.startswith("s-")
    assert (call.agent.name, call.agent.framework, call.agent.instance, call.agent.asserted) == (
        "researcher",
        "langgraph",
        "i-k",
        True,
    )


async def test_the_rest_of_open_reaches_the_call(world: World) -> None:
    """Parent, deadline, trace, the framework's own name of the tool, and the agent of this call."""
    process = await world.join()
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    fields = {"parent": "p1", "deadline_ms": 1500, "traceparent": trace, "framework_tool": "Search", "declares": "read"}
    await process.say(Open("r1", "made.thing", agent="critic", **fields))  # type: ignore[arg-type]
    await process.hear(Closed)
    (call,) = world.supervisor.calls
    assert {field: getattr(call, field) for field in fields} == fields
    assert call.agent == Agent("critic", "langgraph", instance="i-k")
    await process.say(Open("r2", "made.thing", declares="harmless, believe me"))
    await process.hear(Closed)
    assert world.supervisor.calls[1].declares == ""


async def test_a_value_or_a_problem_that_the_gateway_made_is_handed_over(world: World) -> None:
    """An upstream's answer, a fallback's, a refusal."""
    process = await world.join()
    await process.say(Open("r1", "made.thing"))
    made = await process.hear(Closed)
    assert (made.outcome, made.result, made.use, made.problem) == ("ok", {"made": True}, None, None)
    await process.say(Open("r2", "made.fail"))
    failed = await process.hear(Closed)
    assert failed.problem is not None and (failed.problem["code"], failed.problem["rule"]) == ("denied", "nobody")
    assert (failed.ref, failed.outcome, failed.result) == ("r2", "not_executed", None)


async def test_a_suspended_call_hands_back_its_own_object(world: World) -> None:
    """The framework's interruption goes on in its process."""
    process = await world.join()
    await process.say(Open("r1", "local.ask"))
    execute = await process.hear(Execute)
    await process.say(Finished(execute.call, 1, "suspended"))
    await process.hear(Ack)
    closed = await process.hear(Closed)
    assert (closed.outcome, closed.use, closed.problem) == ("suspended", 1, None)


async def test_hundreds_of_calls_at_once_keep_apart(world: World) -> None:
    """Each answer reaches its own ref."""
    process = await world.join()
    await process.say(*(Open(f"r{n}", "local.search", {"n": n}) for n in range(300)))
    refs: dict[str, str] = {}
    for frame in await process.hear_all(300):
        assert isinstance(frame, Execute)
        refs[frame.call] = frame.ref
    await process.say(*(Finished(call, 1, view=ref) for call, ref in refs.items()))
    frames = await process.hear_all(600)
    assert {frame.call: frame.ref for frame in frames if isinstance(frame, Closed)} == refs
    assert sum(isinstance(frame, Ack) for frame in frames) == 300 and len(set(refs.values())) == 300


async def test_a_caller_that_gave_up_has_its_read_aborted(world: World) -> None:
    """cancel → caller_gone → abort; the proof comes back as the answer."""
    process = await world.join()
    await process.say(Open("r1", "local.read_page"), Open("r2", "local.pay"))
    read, pay = await process.hear(Execute), await process.hear(Execute)
    assert (read.on_ok, pay.on_ok) == ("report", "await")
    await process.say(Cancel("r1"), Cancel("r2"), Cancel("nobody"))
    abort = await process.hear(Abort)
    assert (abort.call, abort.n) == (read.call, 1)
    await process.say(Aborted(read.call, 1, "not_started"))
    closed = await process.hear(Closed)
    assert (closed.ref, closed.outcome) == ("r1", "not_executed")
    await process.say(Finished(pay.call, 1))
    await process.hear(Ack)
    assert (await process.hear(Closed)).use == 1


async def test_lifecycle_reaches_every_process(world: World) -> None:
    """A kill, its lifting, the sidecar's draining."""
    first, second = await world.join("a" * 16), await world.join("b" * 16)
    world.channel.broadcast_lifecycle("killed", "agent:*")
    for process in (first, second):
        assert await process.hear(Lifecycle) == Lifecycle("killed", "agent:*")


async def test_a_result_that_no_frame_holds_is_a_problem_and_not_the_end_of_the_connection(world: World) -> None:
    """The tool ran; the process is told so, and its other calls go on."""
    process = await world.join()
    world.supervisor.made = "x" * FRAME_BYTES
    await process.say(Open("r1", "made.thing"))
    closed = await process.hear(Closed)
    assert closed.problem is not None and closed.problem["code"] == "too_large" and not closed.problem["retryable"]
    world.supervisor.made = "\ud800"
    await process.say(Open("r2", "made.thing"))
    closed = await process.hear(Closed)
    assert closed.problem is not None and "JSON" in closed.problem["detail"]
    world.supervisor.made = 1
    await process.say(Open("r3", "made.thing"))
    assert (await process.hear(Closed)).result == 1


async def test_a_view_that_is_too_large_is_dropped_and_the_end_is_kept(world: World) -> None:
    """Digest and size stay: the end of an attempt is never refused for its size."""
    process = await world.join()
    await process.say(Open("r1", "local.search"))
    execute = await process.hear(Execute)
    await process.say(Finished(execute.call, 1, view="x" * (3 * VIEW_BYTES), digest="d", size=3 * VIEW_BYTES))
    await process.hear(Ack)
    await process.hear(Closed)
    flight = world.supervisor.flights[execute.call]
    assert flight.answer is not None
    assert (flight.answer.result().value, flight.answer.result().result_bytes) == (None, 3 * VIEW_BYTES)


async def test_a_process_that_reads_slowly_gets_everything_and_urgent_frames_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More answers than all buffers on the way hold: they wait in order, a lifecycle frame passes them."""
    monkeypatch.setattr(sessions_module, "BACKLOG_BYTES", 1 << 30)
    process = await world.join()
    world.supervisor.made = "x" * 200_000
    process.transport.pause_reading()
    await process.say(*(Open(f"r{n}", "made.thing") for n in range(150)))
    await world.until(lambda: len(world.supervisor.calls) == 150 and not world.open_refs())
    (link,) = world.channel._sockets.values()
    assert link._queue
    world.channel.broadcast_lifecycle("killed", "global")
    process.transport.resume_reading()
    frames = await process.hear_all(151)
    assert [frame.ref for frame in frames if isinstance(frame, Closed)] == [f"r{n}" for n in range(150)]
    assert isinstance(frames[-1], Closed) and sum(isinstance(frame, Lifecycle) for frame in frames) == 1


# ── broken connections ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_broken_connection_is_resumed(world: World) -> None:
    """The same process comes back: its function goes on, and every answer it missed is delivered."""
    process = await world.join()
    await process.say(Open("r1", "local.search"), Open("r2", "made.wait"))
    execute = await process.hear(Execute)
    await process.vanish()
    await world.until(lambda: world.channel.connected == 0)
    assert world.agents.snapshot()[0]["state"] == "away" and world.supervisor.gone == []
    world.supervisor.release.set()
    await asyncio.sleep(0.02)
    back = await world.join(running=(Running(execute.call, 1),))
    closed = await back.hear(Closed)
    assert (closed.ref, closed.result) == ("r2", {"made": True})
    await back.say(Finished(execute.call, 1))
    await back.hear(Ack)
    assert (await back.hear(Closed)).ref == "r1"
    assert world.events == [("seen", "researcher"), ("connected", "researcher"), ("connected", "researcher")]


async def test_what_ended_while_it_was_away_is_told_by_hello(world: World) -> None:
    """unacked → ack and closed, on the new connection."""
    process = await world.join()
    await process.say(Open("r1", "local.search"))
    execute = await process.hear(Execute)
    await process.vanish()
    await world.until(lambda: world.channel.connected == 0)
    back = await world.join(unacked=(Finished(execute.call, 1, view=7),))
    assert (await back.hear(Ack)).call == execute.call
    assert (await back.hear(Closed)).use == 1


async def test_an_answer_that_may_have_been_lost_on_the_way_comes_again(world: World) -> None:
    """Nobody acks ``closed``; a process ignores one that it has had."""
    process = await world.join()
    await process.say(Open("r1", "made.thing"))
    await process.hear(Closed)
    await process.vanish()
    await world.until(lambda: world.channel.connected == 0)
    back = await world.join()
    assert (await back.hear(Closed)).ref == "r1"


async def test_the_newer_of_two_connections_counts(world: World) -> None:
    """A process notices a break before we do: its old connection is cut, its calls are not."""
    process = await world.join()
    await process.say(Open("r1", "local.search"))
    execute = await process.hear(Execute)
    newer = await world.join(running=(Running(execute.call, 1),))
    await process.end()
    await newer.say(Finished(execute.call, 1))
    await newer.hear(Ack)
    assert (await newer.hear(Closed)).use == 1
    assert world.channel.connected == 1 and world.supervisor.gone == []


async def test_after_the_window_its_callers_are_gone_and_what_ran_is_unknown(world: World) -> None:
    """Nobody came back."""
    world.limits = Limits(suspect_s=0.05)
    process = await world.join()
    await process.say(Open("r1", "local.pay"), Open("r2", "made.wait"))
    execute = await process.hear(Execute)
    await process.vanish()
    flight = world.supervisor.flights[execute.call]
    assert flight.answer is not None
    async with asyncio.timeout(PATIENCE_S):
        outcome = await flight.answer
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert sorted(world.supervisor.gone) == sorted(world.supervisor.flights)
    back = await world.join(unacked=(Finished(execute.call, 1, view="late"),))
    assert (await back.hear(Ack)).call == execute.call
    assert [late.value for _, _, late in world.settled] == ["late"]


async def test_a_sidecar_that_stood_still_gives_the_whole_window_again(world: World) -> None:
    """It did not listen: whoever was away could not come back. A timer that rings in time ends the session."""
    process = await world.join()
    await process.say(Open("r1", "local.pay"))
    await process.hear(Execute)
    await process.vanish()
    await world.until(lambda: world.channel.connected == 0)
    (session,) = world.channel._away.values()
    now = asyncio.get_running_loop().time()
    world.channel._window_over(session, now - 60.0)
    assert not session.over and session.window is not None and session.window.when() > now + 25.0
    world.channel._window_over(session, now)
    assert session.over and world.supervisor.gone


async def test_goodbye_needs_no_window(world: World) -> None:
    """An orderly end: gone, not lost."""
    process = await world.join()
    await process.say(Open("r1", "local.pay"))
    execute = await process.hear(Execute)
    await process.say(Bye("done"))
    assert await process.end() == 1000
    await world.until(lambda: world.supervisor.gone)
    assert world.supervisor.gone == [execute.call] and world.events[-1] == ("left", "researcher")


async def test_a_process_with_nothing_under_way_leaves_nothing_behind(world: World) -> None:
    """Thousands of short-lived processes do not pile up for the window."""
    for number in range(5):
        process = await world.join(f"{number}" * 16)
        await process.vanish()
    await world.until(lambda: world.channel.connected == 0)
    assert world.channel._away == {}


async def test_processes_that_are_away_are_bounded(world: World) -> None:
    """The one longest away makes room."""
    world.limits = Limits(max_channels=2)
    for number in range(4):
        process = await world.join(f"{number}" * 16)
        await process.say(Open("r1", "local.pay"))
        await process.hear(Execute)
        await process.vanish()
        await world.until(lambda: world.channel.connected == 0)
    assert len(world.channel._away) == 2 and len(world.supervisor.gone) == 2


async def test_what_a_former_sidecar_left_running_is_claimed_and_settled(world: World) -> None:
    """The function outlived the sidecar: its end is written first and acked then; an abandoned thread's too."""
    world.local.recover({("old", 1): "i-k", ("gone", 1): "i-k"})
    process = await world.join(running=(Running("old", 1),))
    assert world.gave_up == [("gone", 1)]
    await process.say(Finished("old", 1, view="real"), Ended("old", 1))
    assert await process.hear(Ack) == Ack("old", 1, "returned")
    assert [(call, n, end.value) for call, n, end in world.settled] == [("old", 1, "real")]


# ── bad frames ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_frame_that_cannot_be_understood_is_told_and_too_many_end_the_connection(world: World) -> None:
    """Each is answered; the session survives a few."""
    process = await world.join()
    await process.say(Open("r1", "made.thing"))
    await process.hear(Closed)
    bad: list[Any] = ["{", '{"type": "nope"}', "[" * 5000, encode_frame(hello()).decode()]
    for frame in bad:
        await process.socket.send_str(frame)
        told = await process.hear(ProblemFrame)
        assert told.problem["code"] == "invalid_request" and not told.fatal and not told.ref
    await process.say(Open("r2", "made.thing"))
    assert (await process.hear(Closed)).ref == "r2"
    assert len(bad) == MAX_MALFORMED - 1
    await process.socket.send_bytes(b"{}")
    await process.hear(ProblemFrame)
    assert await process.end() == 1008


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ({"ref": "r1", "tool": 7}, "tool"),
        ({"ref": "r1"}, "tool"),
        ({"ref": "r1", "tool": ""}, "no tool"),
        ({"ref": "r1", "tool": "local.x", "args": [1]}, "args"),
        ({"ref": "r1", "tool": "local.x", "run": "r" * 201}, "'run' is longer than 200"),
        ({"ref": "r1", "tool": "local.x", "caller_ref": "a\x00b"}, "'caller_ref' holds characters"),
        ({"ref": "r1", "tool": "local.x", "deadline_ms": 0}, "deadline_ms"),
    ],
)
async def test_a_bad_open_is_refused_by_its_ref(world: World, frame: dict[str, Any], says: str) -> None:
    """The caller that waits for it is told; it costs the connection nothing."""
    process = await world.join()
    for _ in range(MAX_MALFORMED + 1):
        await process.socket.send_str(json.dumps({"type": "open"} | frame))
        told = await process.hear(ProblemFrame)
        assert told.ref == "r1" and says in told.problem["detail"]
    assert world.supervisor.calls == []


async def test_a_ref_is_used_once(world: World) -> None:
    """A second open with it is told without the ref, so that the first call's caller is not misled."""
    process = await world.join()
    await process.say(Open("r1", "local.search"), Open("r1", "local.search"), Open("", "local.search"))
    told = [frame for frame in await process.hear_all(3) if isinstance(frame, ProblemFrame)]
    assert len(told) == 2 and not any(frame.ref for frame in told)
    assert len(world.supervisor.calls) == 1


async def test_open_calls_of_one_process_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is refused and may be tried again."""
    monkeypatch.setattr(channel_module, "LIMITS", ChannelLimits(max_open=2))
    process = await world.join()
    await process.say(Open("r1", "made.wait"), Open("r2", "made.wait"), Open("r3", "made.wait"))
    told = await process.hear(ProblemFrame)
    assert told.ref == "r3" and told.problem["code"] == "overloaded" and told.problem["retryable"]


async def test_a_bug_in_the_supervisor_refuses_the_call(world: World) -> None:
    """Every guard that errs refuses; the connection stays."""
    process = await world.join()
    world.supervisor.fails = True
    await process.say(Open("r1", "made.thing"))
    told = await process.hear(ProblemFrame)
    assert (told.ref, told.problem["code"]) == ("r1", "internal")
    world.supervisor.fails = False
    await process.say(Open("r1", "made.thing"))
    await process.hear(Closed)


async def test_another_process_cannot_end_an_attempt(world: World) -> None:
    """A forged finished is refused and changes nothing."""
    process, other = await world.join("a" * 16), await world.join("b" * 16)
    await process.say(Open("r1", "local.pay"))
    execute = await process.hear(Execute)
    await other.say(Finished(execute.call, 1, view="forged"), Aborted(execute.call, 1, "not_started"))
    for frame in await other.hear_all(2):
        assert isinstance(frame, ProblemFrame) and "another process's" in frame.problem["detail"]
    await process.say(Finished(execute.call, 1, view="real"))
    await process.hear(Ack)
    await process.hear(Closed)


async def test_a_frame_that_is_too_large_ends_the_connection_and_nothing_else(world: World) -> None:
    """The process comes back and its calls go on."""
    process = await world.join()
    await process.say(Open("r1", "local.search"))
    execute = await process.hear(Execute)
    await process.socket.send_str("x" * (FRAME_BYTES + 100))
    assert await process.end() == 1009
    back = await world.join(unacked=(Finished(execute.call, 1),))
    await back.hear(Ack)
    assert (await back.hear(Closed)).ref == "r1"


async def test_a_frame_of_exactly_the_limit_is_read(world: World) -> None:
    """What the welcome promises."""
    process = await world.join()
    empty = len(encode_frame(Open("r1", "made.thing", {"x": ""})))
    await process.say(Open("r1", "made.thing", {"x": "y" * (FRAME_BYTES - empty)}))
    assert (await process.hear(Closed)).ref == "r1"


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_close_ends_every_connection_and_takes_no_new_one(world: World) -> None:
    """Answers first, then 1001; a newcomer is told to come again."""
    process = await world.join()
    late = await world.connect()
    await process.say(Open("r1", "made.thing"))
    await world.until(lambda: world.supervisor.calls)
    closing = asyncio.create_task(world.channel.close())
    assert (await process.hear(Closed)).ref == "r1"
    assert await process.end() == 1001
    await late.end()
    await closing
    assert world.channel.connected == 0 and world.channel._away == {} and world.channel._sockets == {}
    newcomer = await world.connect()
    await newcomer.say(hello("n" * 16))
    refusal = await newcomer.hear(ProblemFrame)
    assert refusal.problem["code"] == "draining" and not refusal.fatal
