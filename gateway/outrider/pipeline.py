"""One call's way. READ THIS FIRST.

    per call, once     ingest ─ kill switch ─ standing ─ run guards ─ access rules ─ prior outcome
                       ─ [idempotency claim] ─ peek ─ [approval ─ kill switch and denies again] ─ [quotas]
                       ─ deadline ─ [claims] ─ fallback ─ retry
    per attempt        attempt gate ─ tool pins ─ bulkhead ─ permits ─ journal ─ send

The stages in brackets come later; their places are kept. Standing is "who is it": the data plane has checked the
credential; what people command of the agent, and whether the policy expects it, is asked here. A paused agent's calls
wait there, before the deadline starts.

Why this order: the kill switch comes before identity so that it works while an identity provider is down. Run guards
come before the access rules, so that a loop of denied calls counts as a runaway too. What cannot run now is not put
before a person (peek). Claims come before the bulkhead, the other order can deadlock. Breaker, bulkhead and rate limit
are inside retry: outside, the breaker would undercount and a sleeping retry would hold a slot. The intent is durable
before the send, and the kill switch is asked once more between the two. Fallback is outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from outrider.agents import Agents, Lifecycle
from outrider.calls import Outcome
from outrider.domains.domain import Domains
from outrider.flight import Flight, Traffic
from outrider.health import Health
from outrider.kills import KillBoard
from outrider.pins import Pins
from outrider.policy.load import Policy
from outrider.recorder import Recorder
from outrider.runs import Runs
from outrider.stages import Next, Stage
from outrider.stages.access import Access
from outrider.stages.attempt_gate import AttemptGate
from outrider.stages.bulkhead import Bulkhead
from outrider.stages.deadline import Deadline
from outrider.stages.fallback import Fallback
from outrider.stages.ingest import Ingest
from outrider.stages.journal import Journal, OnAttempt
from outrider.stages.kill_switch import KillSwitch
from outrider.stages.peek import Peek
from outrider.stages.permits import Permits
from outrider.stages.prior_outcome import PriorOutcome
from outrider.stages.retry import Retry
from outrider.stages.run_guards import RunGuards
from outrider.stages.send import DriverOf, Send
from outrider.stages.standing import Standing
from outrider.stages.tool_pins import ToolPins
from outrider.unresolved import Unresolved


def stages(
    *,
    traffic: Traffic,
    agents: Agents,
    lifecycle: Lifecycle,
    kills: KillBoard,
    health: Health,
    domains: Domains,
    unresolved: Unresolved,
    runs: Runs,
    recorder: Recorder,
    pins: Pins,
    newest: Callable[[], Policy],
    driver_of: DriverOf,
    on_attempt: OnAttempt,
) -> tuple[Stage, ...]:
    """The one ordered list. ``newest`` is the policy in force now; a call's own is pinned in its flight."""
    return (
        # per call, once
        Ingest(traffic.is_draining, pins.effect),
        KillSwitch(kills),
        Standing(agents, lifecycle, traffic, newest),
        RunGuards(runs),
        Access(recorder),
        PriorOutcome(unresolved),
        # idempotency claim
        Peek(health),
        # approval, then kill switch and denies again
        # quotas
        Deadline(),
        # claims
        Fallback(recorder),
        Retry(domains, runs.may_retry),
        # per attempt
        AttemptGate(kills, health, agents, newest),
        ToolPins(pins),
        Bulkhead(),
        Permits(),
        Journal(recorder, on_attempt),
        Send(kills, newest, driver_of),
    )


def compose(chain: Sequence[Stage]) -> Next:
    """The chain as one function. The last stage must answer."""

    async def end(flight: Flight) -> Outcome:
        raise AssertionError(f"no stage answered call {flight.call.id}")

    following: Next = end
    for stage in reversed(chain):
        following = partial(_step, stage, following)
    return following


def _step(stage: Stage, following: Next, flight: Flight) -> Awaitable[Outcome]:
    return stage(flight, following)
