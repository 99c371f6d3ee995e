"""Standing: who is it, and how does it stand? What people command of the agent, and what the policy says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from outrider import clock
from outrider.agents import Agents, Entry, Lifecycle
from outrider.agents.commanded import State, Switch
from outrider.calls import Outcome, OutcomeKind
from outrider.errors import Code
from outrider.flight import Flight, Traffic
from outrider.policy.load import Policy
from outrider.stages import Next
from outrider.standing import policy_bar

STAGE = "standing"
PAUSED_RETRY_AFTER_S = 30.0


class Standing:
    """A person's word first: retired and draining refuse, cordoned refuses new runs, paused waits. Then the policy's:
    undeclared agents, agents without an owner, tools that have drifted. Before the deadline starts: the time that a
    call waits for its paused agent is not its own, and it holds nothing meanwhile."""

    def __init__(self, agents: Agents, lifecycle: Lifecycle, traffic: Traffic, newest: Callable[[], Policy]) -> None:
        self._agents = agents
        self._lifecycle = lifecycle
        self._traffic = traffic
        self._newest = newest

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        entry = flight.entry
        assert entry is not None
        if entry.clear is not flight.policy.agents:
            refusal = await self._admitted(flight, entry)
            if refusal is not None:
                return refusal
        if flight.call.run:
            entry.note_run(flight.call.run, flight.received)
        return await following(flight)

    async def _admitted(self, flight: Flight, entry: Entry) -> Outcome | None:
        """None: it may go on."""
        while (switch := entry.switch) is not None:
            if switch.state is not State.PAUSED:
                if (refusal := _commanded(flight, entry, switch)) is not None:
                    return refusal
                break
            if (refusal := await self._paused(flight, entry, switch)) is not None:
                return refusal
        return policy_bar(flight, self._agents, self._newest(), STAGE)

    async def _paused(self, flight: Flight, entry: Entry, switch: Switch) -> Outcome | None:
        """Wait until something else is commanded; None when that happened."""
        if self._lifecycle.closing:
            detail = "The sidecar is shutting down, and this call's agent is paused. Call again soon."
            return _no(Code.DRAINING, detail, 5.0)
        settings = self._newest().agents
        full = self._traffic.waiting >= flight.policy.limits.max_inflight
        if full or entry.waiting >= settings.pause_max_waiting:
            return _still_paused(switch, "as many calls as may wait do so already")
        patience_s = settings.pause_max_wait_s - (clock.monotonic() - flight.received)
        if flight.call.deadline_ms is not None:
            patience_s = min(patience_s, flight.call.deadline_ms / 1000)
        began = clock.monotonic()
        if await self._changed(flight, entry, patience_s):
            _shorten(flight, clock.monotonic() - began)
            return None
        if flight.verdict is not None:
            return flight.verdict.refusal(STAGE)
        return _still_paused(switch, f"this call has waited {clock.monotonic() - began:.1f} s")

    async def _changed(self, flight: Flight, entry: Entry, patience_s: float) -> bool:
        entry.waiting += 1
        self._traffic.waiting += 1
        try:
            with flight.stoppable(patience_s, limit_stands=True):
                return await entry.changes().wait()
            return False
        finally:
            entry.waiting -= 1
            self._traffic.waiting -= 1


def _shorten(flight: Flight, waited_s: float) -> None:
    """The policy's total time begins when the call goes on; a caller who said how long it waits waits no longer."""
    deadline_ms = flight.call.deadline_ms
    if deadline_ms is not None:
        flight.call = replace(flight.call, deadline_ms=max(1, deadline_ms - round(waited_s * 1000)))


def _commanded(flight: Flight, entry: Entry, switch: Switch) -> Outcome | None:
    name, why = switch.agent, switch.why
    if switch.state is State.RETIRED:
        return _no(Code.AGENT_RETIRED, f"A person retired agent '{name}' for good: {why}. Do not try again.")
    if flight.is_child and _parts_may_begin(switch):
        return None  # a part of a call that is under way, which may end
    if switch.state is State.DRAINING:
        return _no(Code.AGENT_DRAINING, f"A person drains agent '{name}': nothing new begins. Reason: {why}")
    run = flight.call.run
    if run and entry.under_way(run, flight.received):
        return None
    which = f"run '{run[:100]}' is a new one" if run else "this call names no run, so it counts as new"
    return _no(Code.AGENT_CORDONED, f"A person cordoned agent '{name}': no new runs, and {which}. Reason: {why}")


def _parts_may_begin(switch: Switch) -> bool:
    """Of a drained agent nothing does: who was told so may have taken away what it needs. A deadline that is over has
    ended what was under way, once. After a restart there is none: nothing was under way."""
    if switch.state is not State.DRAINING:
        return True
    return switch.drained_at is None and switch.deadline is not None and clock.monotonic() < switch.deadline


def _still_paused(switch: Switch, what: str) -> Outcome:
    who = "Outrider" if switch.automated else "A person"
    detail = f"{who} paused agent '{switch.agent}', and {what}: {switch.why}. Nothing was sent; call again later."
    return _no(Code.AGENT_PAUSED, detail, PAUSED_RETRY_AFTER_S)


def _no(code: Code, detail: str, retry_after_s: float | None = None) -> Outcome:
    return Outcome(OutcomeKind.NOT_EXECUTED, code=code, detail=detail, stage=STAGE, retry_after_s=retry_after_s)
