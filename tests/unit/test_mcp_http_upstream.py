"""An MCP server as an upstream: one request on the wire for each attempt, in either era, and an honest word on what a
broken one means."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from outrider.calls import Agent, Attempt, Call, Effect, Outcome, OutcomeKind, Reason
from outrider.mcp_wire import LEGACY, MODERN, Message
from outrider.policy.plans import HttpUpstream, McpUpstream, Plan, Timeouts, Upstream
from outrider.upstreams.mcp.caller import McpCaller
from outrider.upstreams.mcp.driver import McpDriver
from outrider.upstreams.mcp.http import MAX_MESSAGES, HttpTransport
from tests.support.scripted_mcp import Do, Exchange, ScriptedMcp, said, says

ERAS = (MODERN, LEGACY[0])
both = pytest.mark.parametrize("era", ERAS)


class Client(McpCaller):
    """The caller's side: remembers what it was told, answers what it is asked."""

    def __init__(self, protocol: str = MODERN, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(protocol, {"sampling": {}}, params or {})
        self.told: list[Message] = []
        self.asked: list[str] = []

    def notify(self, message: Message) -> None:
        self.told.append(message)

    async def ask(self, method: str, params: Message) -> Message:
        self.asked.append(method)
        return {"answer": "yes"}


class Rig:
    """A driver before a scripted server."""

    def __init__(self, server: ScriptedMcp, max_bytes: int = 100_000) -> None:
        http = HttpUpstream(server.url)
        self.settings = McpUpstream(http=http, max_response_bytes=max_bytes)
        self.driver = McpDriver(self.settings, lambda: HttpTransport(http))
        self.server = server
        self.calls = 0

    def plan(self, operation: str) -> Plan:
        effect = Effect.WRITE if operation == "pay" else Effect.READ
        return Plan(f"up.{operation}", Upstream("up", None, mcp=self.settings), effect, Timeouts(connect_s=1.0))

    def attempt(self, operation: str = "pay", caller: Client | None = None, **args: Any) -> Attempt:
        self.calls += 1
        plan = self.plan(operation)
        return Attempt(
            Call(f"call-{self.calls}", plan.tool, args, Agent("a")), 1, plan.tool, plan.effect, caller=caller
        )

    async def send(self, attempt: Attempt | None = None, *, within_s: float = 20.0) -> Outcome:
        attempt = attempt or self.attempt()
        plan = self.plan(attempt.tool.partition(".")[2])
        return await asyncio.wait_for(self.driver.send(attempt, plan, 5.0), within_s)


@asynccontextmanager
async def rig_of(era: str, *calls: Do, max_bytes: int = 100_000) -> AsyncIterator[Rig]:
    async with ScriptedMcp(era, *calls) as server:
        rig = Rig(server, max_bytes)
        try:
            yield rig
        finally:
            await rig.driver.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not holds():
            await asyncio.sleep(0.01)


def reset_after_headers(exchange: Exchange) -> None:
    exchange.head(Content_Length="1000")
    exchange.writer.write(b"{")
    asyncio.get_running_loop().call_later(0.05, exchange.reset)


def half_an_event(exchange: Exchange) -> None:
    exchange.stream()
    exchange.writer.write(b'data: {"jsonrpc": "2.0", "id"')


def another_id(exchange: Exchange) -> None:
    exchange.json({"jsonrpc": "2.0", "id": 999_999, "result": said("not yours")})


def another_id_as_event(exchange: Exchange) -> None:
    exchange.stream()
    exchange.event({"jsonrpc": "2.0", "id": "999999", "result": said("not yours")})


def flood(exchange: Exchange) -> None:
    exchange.stream()
    for n in range(MAX_MESSAGES + 1):
        exchange.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": n}})
    exchange.answered()


def garbage(exchange: Exchange) -> None:
    exchange.json(b"<html>")


def huge(exchange: Exchange) -> None:
    exchange.result(said("x" * 200_000))


def huge_event(exchange: Exchange) -> None:
    exchange.stream()
    exchange.answered("x" * 400_000)


def bomb(exchange: Exchange) -> None:
    exchange.json(gzip.compress(b" " * 50_000_000), Content_Encoding="gzip")


def accepted(exchange: Exchange) -> None:
    exchange.head(202, Content_Length="0")


def ended_stream(exchange: Exchange) -> None:
    exchange.stream()


BROKEN: Mapping[str, tuple[Do, set[Reason]]] = {
    "reset before headers": (lambda exchange: exchange.reset(), {Reason.RESET}),
    "reset after headers": (reset_after_headers, {Reason.RESET, Reason.PROTOCOL}),
    "half an event": (half_an_event, {Reason.RESET, Reason.PROTOCOL}),
    "a stream that ends": (ended_stream, {Reason.RESET}),
    "another id": (another_id, {Reason.PROTOCOL}),
    "another id as an event": (another_id_as_event, {Reason.PROTOCOL}),
    "flood": (flood, {Reason.PROTOCOL}),
    "garbage": (garbage, {Reason.PROTOCOL}),
    "huge": (huge, {Reason.PROTOCOL}),
    "a huge event": (huge_event, {Reason.PROTOCOL}),
    "a bomb": (bomb, {Reason.PROTOCOL}),
    "accepted, no answer": (accepted, {Reason.PROTOCOL}),
}


@both
@pytest.mark.parametrize("fault", BROKEN)
async def test_what_breaks_after_sending_may_have_run_and_went_once(era: str, fault: str) -> None:
    """Whatever is wrong with the answer: the request had left, and is not sent again by anything below the pipeline."""
    do, reasons = BROKEN[fault]
    async with rig_of(era, do) as rig:
        outcome = await rig.send()
        assert outcome.kind is OutcomeKind.UNKNOWN
        assert outcome.failure is not None and outcome.failure.reason in reasons
        assert rig.server.count("tools/call") == 1


@both
@pytest.mark.parametrize("fault", BROKEN)
async def test_the_next_call_after_a_broken_one_works(era: str, fault: str) -> None:
    """No fault of one answer outlives it."""
    async with rig_of(era, BROKEN[fault][0], says("fine")) as rig:
        await rig.send()
        assert (await rig.send(rig.attempt("look"))).value == "fine"
        ids = [message["id"] for message in rig.server.sent("tools/call")]
        assert len(set(ids)) == 2


@both
@pytest.mark.parametrize(
    ("status", "kind"),
    [(302, OutcomeKind.DEFINITE), (401, OutcomeKind.DEFINITE), (403, OutcomeKind.DEFINITE),
     (425, OutcomeKind.NOT_EXECUTED), (429, OutcomeKind.NOT_EXECUTED), (500, OutcomeKind.DEFINITE),
     (502, OutcomeKind.UNKNOWN), (503, OutcomeKind.DEFINITE), (504, OutcomeKind.UNKNOWN)],
)  # fmt: skip
async def test_what_a_status_says_of_execution(era: str, status: int, kind: OutcomeKind) -> None:
    """As with any HTTP upstream; status and Retry-After are kept."""
    async with rig_of(era, lambda exchange: exchange.json(b"no", status, Retry_After="7", Location="/mcp")) as rig:
        outcome = await rig.send()
        assert outcome.kind is kind and outcome.failure is not None
        assert (outcome.failure.status, outcome.failure.retry_after_s) == (status, 7.0)
        assert rig.server.count("tools/call") == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(401, OutcomeKind.DEFINITE), (403, OutcomeKind.DEFINITE), (429, OutcomeKind.NOT_EXECUTED),
                         (503, OutcomeKind.NOT_EXECUTED)],
)  # fmt: skip
async def test_a_refused_handshake_is_no_call(status: int, kind: OutcomeKind) -> None:
    """Nothing of the call left. A credential that is refused is the server's judgement, which no retry changes."""
    async with rig_of(LEGACY[0]) as rig:
        rig.server.on["server/discover"] = rig.server.on["initialize"] = lambda exchange: exchange.json(
            b"no", status, Retry_After="3"
        )
        outcome = await rig.send()
        assert outcome.kind is kind and outcome.failure is not None
        assert (outcome.failure.status, outcome.failure.retry_after_s) == (status, 3.0)
        assert rig.server.count("tools/call") == 0


async def test_a_refused_connection_proves_that_nothing_ran() -> None:
    """No byte left."""
    async with ScriptedMcp() as server:
        rig = Rig(server)
    outcome = await rig.send()
    await rig.driver.close()
    assert outcome.kind is OutcomeKind.NOT_EXECUTED
    assert outcome.failure is not None and outcome.failure.reason is Reason.CONNECT


@both
async def test_a_result_that_says_error_is_an_answer(era: str) -> None:
    """The tool said no; the server works."""
    async with rig_of(era, lambda exchange: exchange.result({**said("no room"), "isError": True})) as rig:
        outcome = await rig.send()
        assert outcome.kind is OutcomeKind.DEFINITE
        assert outcome.failure is not None and outcome.failure.reason is Reason.RAISED
        assert outcome.failure.text == "no room"


@both
@pytest.mark.parametrize(
    ("code", "kind"),
    [(-32602, OutcomeKind.DEFINITE), (-32601, OutcomeKind.DEFINITE), (-32603, OutcomeKind.DEFINITE),
     (-32002, OutcomeKind.DEFINITE), (-32000, OutcomeKind.UNKNOWN), (-32001, OutcomeKind.UNKNOWN)],
)  # fmt: skip
async def test_what_an_error_says_of_execution(era: str, code: int, kind: OutcomeKind) -> None:
    """A server that is a gateway itself says -32000 or -32001 where it lost, or did not wait for, what it asked."""
    async with rig_of(era, lambda exchange: exchange.error(code, "no")) as rig:
        outcome = await rig.send()
        assert outcome.kind is kind and str(code) in str(outcome.failure)


@both
async def test_who_waits_no_longer_tells_the_server_as_its_era_wants(era: str) -> None:
    """Legacy: a notification. Modern: the closed response says it, and nothing else."""

    async def hangs(exchange: Exchange) -> None:
        exchange.stream()
        exchange.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
        await exchange.hang()

    async with rig_of(era, hangs) as rig:
        attempt = rig.attempt()
        with pytest.raises(TimeoutError):
            await rig.send(attempt, within_s=0.3)
        assert (await rig.driver.stopped(attempt, rig.plan("pay"), "timeout")).kind is OutcomeKind.UNKNOWN
        call = next(one for one in rig.server.seen if one.message.get("method") == "tools/call")
        await asyncio.wait_for(call.closed.wait(), 5.0)
        told = rig.server.sent("notifications/cancelled")
        assert [message["params"]["requestId"] for message in told] == ([] if era == MODERN else [call.message["id"]])


async def test_an_attempt_that_never_left_is_proven_not_to_have_run() -> None:
    """It was interrupted while the handshake hung."""

    async def hangs(exchange: Exchange) -> None:
        await exchange.hang()

    async with rig_of(MODERN) as rig:
        rig.server.on["server/discover"] = hangs
        attempt = rig.attempt()
        with pytest.raises(TimeoutError):
            await rig.send(attempt, within_s=0.2)
        assert (await rig.driver.stopped(attempt, rig.plan("pay"), "timeout")).kind is OutcomeKind.NOT_EXECUTED


def _forgotten_404(exchange: Exchange) -> None:
    exchange.json({"jsonrpc": "2.0", "id": None, "error": {"code": -32001, "message": "Session not found"}}, 404)


def _forgotten_400(exchange: Exchange) -> None:
    error = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
    exchange.json({"jsonrpc": "2.0", "id": None, "error": error}, 400)


@pytest.mark.parametrize("forgotten", [_forgotten_404, _forgotten_400])
async def test_a_session_that_the_server_forgot_is_opened_anew_and_the_call_runs_once(forgotten: Do) -> None:
    """It executed nothing, so this is no second sending. Some servers say 400 where the standard says 404."""
    async with rig_of(LEGACY[0], says(), forgotten, says("again")) as rig:
        await rig.send()
        assert (await rig.send()).value == "again"
        assert rig.server.count("initialize") == 2
        assert len({message["id"] for message in rig.server.sent("tools/call")}) == 3


async def test_a_server_that_forgets_each_session_is_asked_twice_and_no_more() -> None:
    """Then it is proven that nothing ran."""
    async with rig_of(LEGACY[0], _forgotten_404) as rig:
        outcome = await rig.send()
        assert outcome.kind is OutcomeKind.NOT_EXECUTED
        assert rig.server.count("tools/call") == 2


async def test_a_lost_session_does_not_cut_off_what_still_runs_in_it() -> None:
    """A server may forget a session and answer the calls that it took before."""
    go = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        exchange.stream()
        await go.wait()
        exchange.answered("late")

    async with rig_of(LEGACY[0], slow, _forgotten_404, says("new")) as rig:
        slow_call = asyncio.create_task(rig.send())
        await until(lambda: rig.server.count("tools/call") == 1)
        assert (await rig.send()).value == "new"
        go.set()
        assert (await slow_call).value == "late"


async def test_many_who_lost_one_session_open_one() -> None:
    """Not one handshake each."""
    async with rig_of(LEGACY[0], says()) as rig:
        await rig.send()
        rig.server.sessions.clear()
        outcomes = await asyncio.gather(*(rig.send() for _ in range(10)))
        assert all(outcome.ok for outcome in outcomes) and rig.server.count("initialize") == 2


def asks(method: str) -> Do:
    async def do(exchange: Exchange) -> None:
        exchange.stream()
        exchange.event({"jsonrpc": "2.0", "id": "q1", "method": method, "params": {}})
        await asyncio.sleep(0.2)
        exchange.answered()

    return do


async def answer_to(rig: Rig) -> Message:
    return next(one.message for one in rig.server.seen if one.message and "method" not in one.message)


@pytest.mark.parametrize("client", [None, Client(LEGACY[0])])
async def test_a_ping_is_answered_here(client: Client | None) -> None:
    """It asks whether we live, not whether the client does."""
    async with rig_of(LEGACY[0], asks("ping")) as rig:
        assert (await rig.send(rig.attempt(caller=client))).ok
        assert await answer_to(rig) == {"jsonrpc": "2.0", "id": "q1", "result": {}}


async def test_a_server_that_asks_where_there_is_no_client_is_told_so() -> None:
    """A plain call has nobody who could be asked; the call goes on."""
    async with rig_of(LEGACY[0], asks("sampling/createMessage")) as rig:
        assert (await rig.send()).ok
        assert (await answer_to(rig))["error"]["code"] == -32601


@pytest.mark.parametrize(("recorded", "asked"), [(True, ["sampling/createMessage"]), (False, [])])
async def test_a_client_is_asked_once_it_is_recorded_that_it_will_be(recorded: bool, asked: list[str]) -> None:
    """So that no retry asks it again."""
    client = Client(LEGACY[0])
    async with rig_of(LEGACY[0], asks("sampling/createMessage")) as rig:
        attempt = rig.attempt(caller=client)

        async def commit() -> bool:
            return recorded

        attempt.commit = commit
        assert (await rig.send(attempt)).ok
        assert client.asked == asked
        assert ("result" in await answer_to(rig)) is recorded


@both
async def test_progress_reaches_who_asked_for_it_under_the_token_it_gave(era: str) -> None:
    """Ours is one for this attempt."""

    def works(exchange: Exchange) -> None:
        token = exchange.message["params"]["_meta"]["progressToken"]
        exchange.stream()
        for n in (1, 2):
            told = {"progressToken": token, "progress": n}
            exchange.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": told})
        exchange.answered()

    async with rig_of(era, works) as rig:
        client = Client(era, {"_meta": {"progressToken": "mine"}})
        assert (await rig.send(rig.attempt(caller=client))).ok
        assert [(m["params"]["progressToken"], m["params"]["progress"]) for m in client.told] == [
            ("mine", 1), ("mine", 2),
        ]  # fmt: skip


@both
async def test_a_server_s_cookie_is_not_kept(era: str) -> None:
    """One agent's state at a server is not another's."""
    async with rig_of(era, lambda exchange: exchange.result(said("x"), Set_Cookie="who=me")) as rig:
        await rig.send()
        await rig.send()
        assert all("cookie" not in one.headers for one in rig.server.seen)


@both
async def test_compressed_answers_are_read(era: str) -> None:
    """And their size is what they unpack to."""

    def packed(exchange: Exchange) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": exchange.message["id"], "result": said("x" * 50_000)}).encode()
        exchange.json(gzip.compress(body), Content_Encoding="gzip")

    async with rig_of(era, packed) as rig:
        assert (await rig.send()).value == "x" * 50_000


async def test_a_broken_answer_is_taken_up_where_it_broke_off() -> None:
    """Legacy streams that number their events can be; the call itself is not sent again."""

    def breaks(exchange: Exchange) -> None:
        exchange.stream()
        exchange.writer.write(b"id: e1\nretry: 10\ndata:\n\n")

    async with rig_of(LEGACY[0], breaks) as rig:

        def resumed(exchange: Exchange) -> None:
            exchange.stream()
            call = rig.server.sent("tools/call")[0]
            exchange.event({"jsonrpc": "2.0", "id": call["id"], "result": said("the rest")})

        rig.server.on["GET"] = resumed
        assert (await rig.send()).value == "the rest"
        assert rig.server.count("tools/call") == 1
        assert [one.headers.get("last-event-id") for one in rig.server.seen if one.method == "GET"] == ["e1"]
