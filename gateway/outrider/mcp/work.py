"""What is done with a request: through the pipeline, or answered here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from outrider import clock
from outrider.calls import Agent, Call, Outcome
from outrider.flight import Flight
from outrider.identity import Credential
from outrider.mcp import listing
from outrider.mcp.answering import KEEP_ALIVE_S, Answer
from outrider.mcp.calling import Calling, Questions
from outrider.mcp.inbound import Inbound
from outrider.mcp.replies import complete, of_outcome
from outrider.mcp_wire import INVALID_PARAMS, METHOD_NOT_FOUND, OWN, SUPPORTED, Message, RpcError
from outrider.policy.compile import MCP_METHOD
from outrider.policy.current import CurrentPolicy
from outrider.policy.plans import Upstream
from outrider.supervisor import Supervisor
from outrider.telemetry import traceparent_from, tracestate_from
from outrider.upstreams.drivers import Drivers
from outrider.upstreams.mcp.session import Server
from outrider.upstreams.mcp.transport import McpFailure, Sending

MAX_TEXT = 200
DISCOVER_FRESH_MS = 60_000
OPEN_S = 5.0
LEGACY_ONLY = frozenset({"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""Requests that the modern era has no more."""
OWN_CAPABILITIES: Message = {"tools": {"listChanged": True}}
INSTRUCTIONS = "Tools of several servers behind Outrider, named SERVER__TOOL. A refusal says in its text what to do."


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: the credential, the name that is used with it, and what its headers say of the run."""

    credential: Credential
    agent: Agent
    run: str = ""
    session: str = ""
    deadline_ms: int | None = None
    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request at one endpoint. ``upstream`` is None at the endpoint of all. ``version`` is what is spoken."""

    inbound: Inbound
    asker: Asker
    upstream: Upstream | None
    version: str
    capabilities: Message
    answer: Answer
    questions: Questions | None = None


class Desk:
    """Answers requests. ``handle`` never raises but RpcError."""

    def __init__(self, supervisor: Supervisor, policies: CurrentPolicy, drivers: Drivers) -> None:
        self.supervisor = supervisor
        self.policies = policies
        self.drivers = drivers

    async def handle(self, asked: Asked, started: Any = lambda flight: None) -> Message:
        """The result. ``started`` is told the flight of what goes through the pipeline. Raises RpcError."""
        method = asked.inbound.method
        if asked.inbound.modern and method in LEGACY_ONLY:
            raise RpcError(METHOD_NOT_FOUND, f"version {asked.version} has no {method}")
        if method == "ping":
            return {}
        if method == "server/discover":
            return await self.discover(asked)
        if method == "tools/list":
            return await self._list(asked)
        if method == "tools/call":
            return await self._call_tool(asked, started)
        if asked.upstream is None:
            raise RpcError(METHOD_NOT_FOUND, f"the endpoint of all servers offers tools only, not {method[:100]}")
        return await self._pass_on(asked, started)

    # ── what is known here ───────────────────────────────────────────────────────────────────────────────────────

    async def discover(self, asked: Asked) -> Message:
        """What the modern era asks first."""
        server = await self.server(asked.upstream, modern=True)
        result: Message = {
            "supportedVersions": list(SUPPORTED),
            "capabilities": dict(server.capabilities),
            "ttlMs": DISCOVER_FRESH_MS,
            "cacheScope": "private",
        }
        if server.instructions:
            result["instructions"] = server.instructions
        return complete(result, modern=True)

    async def server(self, upstream: Upstream | None, *, modern: bool) -> Server:
        """What this endpoint says of itself: near to what its one server says. Raises RpcError."""
        if upstream is None:
            return Server(SUPPORTED[0], SUPPORTED, {}, OWN_CAPABILITIES, INSTRUCTIONS)
        driver = self.drivers.mcp(upstream)
        assert driver is not None
        try:
            return (await driver.session(modern, Sending(OPEN_S))).server
        except McpFailure as failure:
            raise unreachable(upstream, failure) from None

    async def _list(self, asked: Asked) -> Message:
        policy = self.policies.current
        who = listing.For(asked.asker.agent, asked.asker.credential.principal.tools)
        try:
            if asked.upstream is None:
                listed = await listing.of_all(policy, self.drivers, who)
            else:
                listed = await listing.of_one(policy, self.drivers, asked.upstream, who)
        except McpFailure as failure:
            assert asked.upstream is not None
            raise unreachable(asked.upstream, failure) from None
        except ValueError as error:
            raise RpcError(-32603, str(error)) from None
        result: Message = {"tools": list(listed.tools)}
        if asked.inbound.modern:
            result |= {"ttlMs": int(listed.fresh_s * 1000), "cacheScope": "private"}
        return complete(result, modern=asked.inbound.modern)

    # ── through the pipeline ─────────────────────────────────────────────────────────────────────────────────────

    async def _call_tool(self, asked: Asked, started: Any) -> Message:
        params = asked.inbound.params
        name, arguments = params.get("name"), params.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise RpcError(INVALID_PARAMS, "'params.name' must be a text and 'params.arguments' an object")
        group, operation = (asked.upstream.name, name) if asked.upstream is not None else listing.split(name)
        known = self.policies.current.upstreams.get(group)
        if known is None or known.mcp is None or operation.startswith(MCP_METHOD):
            raise RpcError(INVALID_PARAMS, f"unknown tool: {name[:MAX_TEXT]}")
        sent = {**params, "name": operation}
        return await self._through(asked, f"{group}.{operation}", arguments, sent, started, tool=True)

    async def _pass_on(self, asked: Asked, started: Any) -> Message:
        """A method of the one server that is no tool, governed as one: ``NAME.mcp:METHOD``."""
        assert asked.upstream is not None
        params = asked.inbound.params
        tool = f"{asked.upstream.name}.{MCP_METHOD}{asked.inbound.method}"
        arguments = {key: value for key, value in params.items() if key != "_meta"}
        try:
            return await self._through(asked, tool, arguments, params, started, tool=False)
        except RpcError as error:
            if error.data is None and error.code == INVALID_PARAMS and self.policies.current.plan(tool) is None:
                raise RpcError(METHOD_NOT_FOUND, f"no such method: {asked.inbound.method[:MAX_TEXT]}") from None
            raise

    async def _through(
        self, asked: Asked, name: str, arguments: Message, sent: Message, started: Any, *, tool: bool
    ) -> Message:
        call = _call(asked, name, arguments)
        caller = Calling(asked.version, asked.capabilities, sent, asked.answer, asked.questions)
        flight = self.supervisor.submit(call, caller)
        started(flight)
        outcome = await self._outcome(asked, flight)
        problem = None if outcome.ok else self.supervisor.problem(flight, outcome)
        reply = of_outcome(outcome, problem, tool=tool, modern=asked.inbound.modern)
        if isinstance(reply, RpcError):
            raise reply
        return reply

    async def _outcome(self, asked: Asked, flight: Flight) -> Outcome:
        """The answer, and a sign of life on the wire while it takes long."""
        answer = flight.answer
        assert answer is not None
        lost: asyncio.Future[Any] = asyncio.get_running_loop().create_task(asked.answer.lost.wait())
        try:
            await asyncio.wait([answer, lost], timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not lost.done():
                asked.answer.keep_alive()
                await asyncio.wait([answer, lost], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self.supervisor.caller_gone(flight)
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            self.supervisor.caller_gone(flight)
            raise
        finally:
            lost.cancel()


def _call(asked: Asked, tool: str, arguments: Message) -> Call:
    asker, meta = asked.asker, asked.inbound.meta
    traceparent, tracestate = _trace(asker, meta)
    return Call(
        id=clock.new_id(),
        tool=tool,
        args=arguments,
        agent=asker.agent,
        principal=asker.credential.principal,
        run=asker.run or _text(meta, "run"),
        session=asker.session or _text(meta, "session"),
        parent=_text(meta, "parent"),
        caller_ref=str(asked.inbound.id)[:MAX_TEXT],
        deadline_ms=asker.deadline_ms,
        traceparent=traceparent,
        tracestate=tracestate,
    )


def _trace(asker: Asker, meta: Message) -> tuple[str, str]:
    """What the message says is the parent; what the HTTP request says, where the message says nothing."""
    said = meta.get("traceparent")
    traceparent = traceparent_from(said) if isinstance(said, str) else ""
    if not traceparent:
        return asker.traceparent, asker.tracestate
    state = meta.get("tracestate")
    return traceparent, tracestate_from(traceparent, state) if isinstance(state, str) else ""


def _text(meta: Message, name: str) -> str:
    """One of our own keys of ``_meta``. Raises RpcError."""
    value = meta.get(OWN + name, "")
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        said = f"'params._meta[\"{OWN}{name}\"]'"
        raise RpcError(INVALID_PARAMS, f"{said} must be a text of at most {MAX_TEXT} characters")
    return value


def unreachable(upstream: Upstream, failure: McpFailure) -> RpcError:
    """The server behind an endpoint cannot be asked about itself."""
    return RpcError(-31001, f"the MCP server '{upstream.name}' cannot be reached: {failure.text[:300]}")
