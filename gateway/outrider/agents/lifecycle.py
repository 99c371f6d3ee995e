"""What people command of agents: in memory at once, durable before it is acknowledged, told to whoever listens.

    a restriction   memory ──► ledger, durable ──► answer        (where the disk does not answer: in force all the same)
    a lift          ledger, durable ──► memory ──► answer        (where the disk does not answer: nothing is lifted)

Automation may pause an agent that nobody has commanded anything of, and nothing else. Everything is in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from outrider import clock
from outrider.agents import stored
from outrider.agents.commanded import (
    AUTOMATION,
    LIFTS,
    MAX_TEXT,
    Command,
    Order,
    State,
    Switch,
    decide,
    decide_by_itself,
    state_of,
)
from outrider.agents.registry import MAX_CHARS, Agents
from outrider.agents.tools import KnownTool
from outrider.errors import Code, Refused
from outrider.ledger.record import Event, EventType

if TYPE_CHECKING:
    from outrider.ledger.writer import Ledger

log = logging.getLogger("outrider.agents")

MAX_SWITCHES = 10_000
"""Agents of which something is commanded at once, retired ones included."""
MAX_UNWRITTEN = 50
"""Commands of one agent that a disk in trouble keeps from the ledger, and that follow later."""
DURABLE_WAIT_S = 0.5
"""How long a restriction's answer waits for the disk."""
LIFT_WAIT_S = 5.0
RETRY_S = 1.0
DRAIN_S = 30.0
"""How long calls in flight have when a drain names no deadline: what Kubernetes gives a Pod."""
MAX_DRAIN_S = 24 * 3600.0

T = TypeVar("T")
Listener = Callable[[str, Switch | None], None]


class Lifecycle:
    """The switches of all agents. ``under_way(agent)`` counts its calls; ``stop(agent, why)`` ends them."""

    def __init__(
        self,
        agents: Agents,
        ledger: Ledger,
        *,
        under_way: Callable[[str], int],
        stop: Callable[[str, str], None],
    ) -> None:
        self._agents = agents
        self._ledger = ledger
        self._under_way = under_way
        self._stop = stop
        self._switches: dict[str, Switch] = {}
        self._listeners: list[Listener] = []
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._writing: dict[str, asyncio.Task[bool]] = {}
        self._unwritten: dict[str, tuple[Event, ...]] = {}
        self._lifting: set[str] = set()
        self._retry_at = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closing = False
        self.on_retired: Callable[[str, str, str], Coroutine[Any, Any, None]] = _nothing

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take over stored rows. Of one that cannot be read it is not known what it stopped: that agent is paused."""
        for row in rows:
            try:
                switch = stored.read_switch(row)
            except Exception as fault:  # a row of any shape, perhaps written by a newer Outrider
                log.error("what was commanded of agent %r cannot be read: %s", row["agent"], fault)
                why = f"what was commanded of it cannot be read ({fault}); it waits until a person resumes it"
                now = clock.wall()
                switch = Switch(str(row["agent"]), State.PAUSED, AUTOMATION, why[:MAX_TEXT], now, durable=True)
            self._put(switch.agent, switch)

    def subscribe(self, listener: Listener) -> None:
        """``listener(agent, switch)`` right after each change; None: nothing is commanded of it any more."""
        self._listeners.append(listener)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, agent: str) -> Switch | None:
        """What is commanded of this agent, None for nothing."""
        return self._switches.get(agent)

    def shown(self, agent: str) -> dict[str, Any]:
        """What is commanded of this agent, and of a drain how far it is."""
        switch = self._switches.get(agent)
        if switch is None:
            return {"state": State.OPEN.value}
        more = {"remaining": self._under_way(agent)} if switch.state is State.DRAINING else {}
        return switch.as_dict() | more

    # ── commanding ───────────────────────────────────────────────────────────────────────────────────────────────

    async def command(
        self, agent: str, command: Command, why: str, by: str, deadline_s: float = DRAIN_S
    ) -> Switch | None:
        """A person's command. None: the agent is open. Once begun it is not undone when the caller is cancelled.

        Raises Refused: the agent's state does not allow it, ``MAX_SWITCHES`` agents are commanded, or a lift cannot be
        written, and then stands as it was."""
        _check_name(agent)
        runs = self._agents.runs_under_way(agent) if command is Command.CORDON else ()
        before = self._switches.get(agent)
        order = Order(agent, command, why, by, deadline_s, runs)
        following = decide(before, order)
        if before is None and len(self._switches) >= MAX_SWITCHES:
            raise _conflict(f"{MAX_SWITCHES} agents are cordoned, paused or retired, which is the limit. Open some.")
        if command in LIFTS:
            return await self._soon(self._lift(order))
        assert following is not None
        self._put(agent, following)
        writing = self._write(following, _event(before, following, order))
        if following.state is State.RETIRED:
            await asyncio.wait({self._spawn(self._revoke(agent, why, by))}, timeout=DURABLE_WAIT_S)
        durable = await _within(writing, DURABLE_WAIT_S)
        now = self._switches.get(agent)
        return now if now is not None else replace(following, durable=durable)

    async def _revoke(self, agent: str, why: str, by: str) -> None:
        """What it holds is worth nothing any more. It is refused whatever it shows."""
        try:
            await self.on_retired(agent, why, by)
        except Exception:
            log.exception("the credentials of the retired agent %r could not be revoked", agent)

    def automate(self, agent: str, state: str, why: str) -> bool:
        """What automation asks for; only ``paused`` is known. False: a person, or an earlier automation, has commanded
        something of this agent, and that stands. In force at once, on disk as soon as can be."""
        if State(state) is not State.PAUSED:
            raise ValueError(f"automation may only pause, not make an agent {state}")
        order = Order(agent, Command.PAUSE, why, AUTOMATION)
        following = decide_by_itself(self._switches.get(agent), order)
        if following is None or len(self._switches) >= MAX_SWITCHES:
            return False
        self._put(agent, following)
        self._write(following, _event(None, following, order))
        return True

    async def accept(self, agent: str, tool: str, why: str, by: str) -> dict[str, Any]:
        """A person trusts what a drifted tool is now: durable, then in force. Raises KeyError: no such drift; Refused:
        it cannot be written, or the tool has changed again."""
        known = self._agents.accepted(agent, tool, by, why)
        data = {"tool": tool, "digest": known.latest}
        event = Event(type=EventType.AGENT_ACCEPTED, agent={"name": agent}, actor=by, reason=why, data=data)
        await self._soon(self._accept(agent, known, event))
        return known.as_dict()

    async def _accept(self, agent: str, known: KnownTool, event: Event) -> None:
        await self._durably(event, [stored.tool(agent, known)])
        if not self._agents.accept(agent, known):
            raise _conflict(f"{known.name} of agent '{agent}' has changed once more meanwhile. Look at it again.")

    async def _lift(self, order: Order) -> Switch | None:
        """Once what stands is on disk: a lift must not overtake what it lifts."""
        agent = order.agent
        if agent in self._lifting:
            raise _conflict(f"Agent '{agent}' is being opened already.")
        self._lifting.add(agent)
        try:
            if (writing := self._writing.get(agent)) is not None:
                await asyncio.wait({writing})
            before = self._switches.get(agent)
            following = decide(before, order)
            if before is not None and not before.durable:
                what = f"That agent '{agent}' is {before.state.value} is not on disk yet; it stays until it is."
                raise _unwritten(what)
            await self._durably(_event(before, following, order), [stored.switched(agent, following)])
            if self._switches.get(agent) is not before:
                now = state_of(self._switches.get(agent)).value
                raise _conflict(f"Agent '{agent}' was commanded something else meanwhile: it is {now}.")
            following = None if following is None else replace(following, durable=True)
            self._put(agent, following)
            return following
        finally:
            self._lifting.discard(agent)

    def _put(self, agent: str, switch: Switch | None) -> None:
        """In force from here on."""
        if (timer := self._deadlines.pop(agent, None)) is not None:
            timer.cancel()
        if switch is None:
            self._switches.pop(agent, None)
        else:
            self._switches[agent] = switch
        self._agents.command(agent, switch)
        if switch is not None and switch.state is State.DRAINING and switch.deadline is not None:
            loop = asyncio.get_running_loop()
            self._deadlines[agent] = loop.call_later(
                max(0.0, switch.deadline - clock.monotonic()), self._deadline_passed, switch
            )
        for listener in self._listeners:
            try:
                listener(agent, switch)
            except Exception:  # a listener's fault must not undo a command
                log.exception("a listener of agents' lives failed")

    def _deadline_passed(self, switch: Switch) -> None:
        self._deadlines.pop(switch.agent, None)
        self._stop(switch.agent, f"Agent '{switch.agent}' was drained, and the time for calls in flight is over.")

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _write(self, switch: Switch, event: Event | None = None) -> asyncio.Task[bool]:
        """Write the switch, with what could not be written of its agent before; the task says whether the switch is on
        disk, and never fails."""
        events = (*self._unwritten.pop(switch.agent, ()), *([event] if event is not None else ()))[-MAX_UNWRITTEN:]
        row = [stored.switched(switch.agent, switch)]
        appended = [self._append(one, row if one is events[-1] else []) for one in events]
        level = logging.DEBUG if event is None else logging.ERROR  # it is tried every second
        writing = self._writing[switch.agent] = self._spawn(self._confirm(switch, events, appended, level))
        return writing

    async def _confirm(
        self, switch: Switch, events: Sequence[Event], appended: Sequence[asyncio.Future[int]], level: int
    ) -> bool:
        agent = switch.agent
        done = await asyncio.gather(*appended, return_exceptions=True)
        if self._writing.get(agent) is asyncio.current_task():
            del self._writing[agent]
        left = tuple(event for event, end in zip(events, done, strict=True) if isinstance(end, BaseException))
        if left:
            self._unwritten[agent] = (*left, *self._unwritten.get(agent, ()))[-MAX_UNWRITTEN:]
        if isinstance(done[-1], BaseException):  # disk full, locked, closed: the switch stands, and is written later
            log.log(level, "that agent %r is %s could not be written yet: %s", agent, switch.state, done[-1])
            return False
        if self._switches.get(agent) is switch:
            self._replace(replace(switch, durable=True))
        return True

    def _replace(self, switch: Switch) -> None:
        """The same switch with another note on it: nobody need look again."""
        self._switches[switch.agent] = switch
        entry = self._agents.get(switch.agent)
        if entry is not None:
            entry.switch = switch

    def _append(self, event: Event, mutations: list[stored.Mutation]) -> asyncio.Future[int]:
        """As the ledger's, but it never raises at once."""
        try:
            return self._ledger.append(event, durable=True, mutations=mutations)
        except Exception as fault:
            failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            failed.set_exception(fault)
            return failed

    async def _durably(self, event: Event, mutations: list[stored.Mutation]) -> None:
        """Raises Refused when it cannot be written."""
        try:
            await self._append(event, mutations)
        except Exception as fault:
            raise _unwritten(f"The ledger cannot be written ({fault}). All stays as it was.") from fault

    async def _soon(self, loosening: Coroutine[Any, Any, T]) -> T:
        """What loosens goes on to its end, whoever waits for it: what the ledger says by then must be in force."""
        task = self._spawn(loosening)
        done, _ = await asyncio.wait({task}, timeout=LIFT_WAIT_S)
        if not done:
            task.add_done_callback(_say_fault)
            raise _unwritten("The ledger does not answer yet. All stays as it was until this is written.")
        return task.result()

    # ── what happens by itself ───────────────────────────────────────────────────────────────────────────────────

    def tend(self) -> None:
        """See which drains are done, and write what could not be written."""
        for switch in tuple(self._switches.values()):
            if _empties(switch) and switch.agent not in self._lifting and not self._under_way(switch.agent):
                self._drained(switch)
        now = clock.monotonic()
        if now < self._retry_at:
            return
        self._retry_at = now + RETRY_S
        for agent in tuple(self._unwritten):
            standing = self._switches.get(agent)
            if standing is not None and agent not in self._writing:
                self._write(standing)

    def _drained(self, switch: Switch) -> None:
        drained = replace(switch, drained_at=clock.wall(), durable=False)
        self._replace(drained)
        self._write(drained, Event(type=EventType.AGENT_DRAINED, agent={"name": switch.agent}, reason=switch.why))

    def release_waiting(self) -> None:
        """The sidecar shuts down: whoever waits for a paused agent waits in vain."""
        self.closing = True
        for switch in self._switches.values():
            self._agents.command(switch.agent, switch)

    async def close(self) -> None:
        """Wait, bounded, for what is being written. Called once, before the ledger is closed."""
        for timer in self._deadlines.values():
            timer.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=LIFT_WAIT_S)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _nothing(agent: str, why: str, by: str) -> None:
    """Nobody issues credentials."""


def _say_fault(ended: asyncio.Task[Any]) -> None:
    if not ended.cancelled() and (fault := ended.exception()) is not None:
        log.error("nothing was loosened: %s", fault)


def _event(before: Switch | None, after: Switch | None, order: Order) -> Event:
    was, will_be = state_of(before).value, state_of(after).value
    data: dict[str, Any] = {"command": order.command.value, "from": was, "to": will_be}
    if after is not None and after.automated:
        data["automated"] = True
    if after is not None and after.deadline_at is not None:
        data["deadline"] = clock.stamp(after.deadline_at)
    why = order.why.strip()[:MAX_TEXT]
    return Event(
        type=EventType.AGENT_COMMANDED,
        agent={"name": order.agent},
        actor=order.by,
        reason=why,
        detail=f"{was} → {will_be}: {why}",
        data=data,
    )


def _empties(switch: Switch) -> bool:
    return switch.state is State.DRAINING and switch.drained_at is None


def _check_name(agent: str) -> None:
    if not agent or len(agent) > MAX_CHARS or not agent.isprintable() or agent != agent.strip():
        sentence = f"An agent's name has 1 to {MAX_CHARS} printable characters and no blanks around it."
        raise Refused(sentence, {"code": Code.INVALID_REQUEST.value})


async def _within(writing: asyncio.Task[bool], seconds: float) -> bool:
    """Whether it is on disk by then. The task goes on."""
    done, _ = await asyncio.wait({writing}, timeout=seconds)
    return bool(done) and writing.result()


def _conflict(sentence: str) -> Refused:
    return Refused(sentence, {"code": Code.CONFLICT.value})


def _unwritten(sentence: str) -> Refused:
    return Refused(sentence, {"code": Code.LEDGER_UNAVAILABLE.value})
