"""The breaker, promise by promise; its whole behaviour is compared with a model in tests/model."""

from __future__ import annotations

import json

import pytest

from outrider.domains.breaker import PROBE_HINT_S, TRANSITIONS, Breaker, Event, Permit, Rejected, State, Verdict
from outrider.policy import plans

SETTINGS = plans.Breaker(
    window_s=60.0, min_calls=10, failure_ratio=0.5, consecutive_failures=5, open_for_s=10.0, open_for_max_s=60.0,
    max_probes=1, success_threshold=2, half_open_max_wait_s=30.0,
)  # fmt: skip


def breaker(**changes: object) -> Breaker:
    settings = plans.Breaker(**{name: getattr(SETTINGS, name) for name in SETTINGS.__slots__} | changes)  # type: ignore[arg-type]
    return Breaker(settings, rng=lambda: 0.5)  # in the middle: no jitter


def passed(breaker: Breaker, now: float, **options: float) -> Permit:
    permit = breaker.acquire(now, **options)
    assert isinstance(permit, Permit)
    return permit


def report(breaker: Breaker, now: float, *verdicts: Verdict) -> None:
    for verdict in verdicts:
        breaker.record(passed(breaker, now), now, verdict)


def opened(**changes: object) -> Breaker:
    made = breaker(**changes)
    report(made, 0.0, *[Verdict.FAILURE] * 5)
    assert made.state is State.OPEN
    return made


def test_failures_in_a_row_open_it() -> None:
    """Five in a row, also far below the minimum of calls."""
    made = breaker()
    report(made, 0.0, *[Verdict.FAILURE] * 4)
    assert made.state is State.CLOSED
    report(made, 0.0, Verdict.FAILURE)
    assert made.state is State.OPEN


def test_a_success_ends_the_row() -> None:
    """Four failures, a success and four failures are no five in a row."""
    made = breaker(min_calls=100)
    report(made, 0.0, *[Verdict.FAILURE] * 4, Verdict.SUCCESS, *[Verdict.FAILURE] * 4)
    assert made.state is State.CLOSED


def test_a_share_of_failures_opens_it_from_the_minimum_of_calls_on() -> None:
    """Every second call fails: the tenth opens it, the ninth does not."""
    made = breaker()
    report(made, 0.0, *[Verdict.SUCCESS, Verdict.FAILURE] * 4, Verdict.SUCCESS)
    assert made.state is State.CLOSED
    report(made, 0.0, Verdict.FAILURE)
    assert made.state is State.OPEN


def test_old_failures_leave_the_window() -> None:
    """What happened more than a window ago does not count."""
    made = breaker()
    report(made, 0.0, *[Verdict.SUCCESS, Verdict.FAILURE] * 4)
    report(made, 61.0, Verdict.SUCCESS, Verdict.FAILURE)
    assert made.state is State.CLOSED
    assert made.snapshot(61.0)["calls"] == 2


def test_an_open_breaker_rejects_and_says_for_how_long() -> None:
    """A rejection carries what remains of the open period."""
    made = opened()
    rejected = made.acquire(4.0)
    assert isinstance(rejected, Rejected)
    assert (rejected.retry_after_s, rejected.state) == (6.0, State.OPEN)
    assert made.peek(4.0) == 6.0


def test_after_its_time_one_probe_passes_and_the_others_wait() -> None:
    """Half-open is bounded; those beside the probe get a hint."""
    made = opened()
    passed(made, 10.0)
    assert made.state is State.HALF_OPEN
    rejected = made.acquire(10.0)
    assert isinstance(rejected, Rejected)
    assert rejected.retry_after_s == PROBE_HINT_S


def test_enough_probes_in_a_row_close_it() -> None:
    """The success threshold is two; afterwards nothing of before counts."""
    made = opened()
    report(made, 10.0, Verdict.SUCCESS)
    assert made.state is State.HALF_OPEN
    report(made, 11.0, Verdict.SUCCESS)
    assert made.state is State.CLOSED
    report(made, 11.0, *[Verdict.FAILURE] * 4)
    assert made.state is State.CLOSED


def test_each_failed_probe_doubles_the_open_period_up_to_the_maximum() -> None:
    """10, 20, 40, 60, 60 s; closing starts again from 10."""
    made, now, periods = opened(success_threshold=1), 0.0, []
    for _ in range(5):
        wait = made.peek(now)
        assert wait is not None
        periods.append(wait)
        now += wait
        report(made, now, Verdict.FAILURE)
    assert periods == [10.0, 20.0, 40.0, 60.0, 60.0]
    now += 60.0
    report(made, now, Verdict.SUCCESS, *[Verdict.FAILURE] * 5)
    assert made.peek(now) == 10.0


def test_successes_before_a_failed_probe_do_not_count() -> None:
    """The threshold is a row: a success, a failure and a success are no two in a row."""
    made = opened()
    report(made, 10.0, Verdict.SUCCESS, Verdict.FAILURE)
    report(made, 30.0, Verdict.SUCCESS)
    assert made.state is State.HALF_OPEN


@pytest.mark.parametrize(("random", "period_s"), [(0.0, 9.0), (0.999999, 11.0)])
def test_the_open_period_is_jittered_by_a_tenth(random: float, period_s: float) -> None:
    """So that many gateways do not probe at the same moment."""
    made = Breaker(SETTINGS, rng=lambda: random)
    report(made, 0.0, *[Verdict.FAILURE] * 5)
    assert made.peek(0.0) == pytest.approx(period_s, abs=1e-4)


def test_a_cancelled_probe_gives_its_permit_back() -> None:
    """IGNORE is no verdict: the next call is the probe."""
    made = opened()
    made.record(passed(made, 10.0), 10.0, Verdict.IGNORE)
    assert made.state is State.HALF_OPEN
    passed(made, 10.0)


def test_a_probe_that_never_reports_does_not_wedge_it() -> None:
    """Trap 4: half-open is left after its longest wait, and a later probe passes."""
    made = opened()
    passed(made, 10.0)
    assert made.snapshot(39.9)["state"] == "half_open"
    assert made.snapshot(40.0)["state"] == "open"
    assert made.peek(40.0) == 20.0
    passed(made, 60.0)


def test_a_tool_slower_than_the_longest_wait_can_still_prove_itself_well() -> None:
    """The probe of an attempt that may take 50 s is not lost after 30."""
    made = opened(success_threshold=1)
    permit = passed(made, 10.0, within_s=50.0)
    made.record(permit, 55.0, Verdict.SUCCESS)
    assert made.state is State.CLOSED


def test_half_open_without_a_probe_waits_for_the_next_call() -> None:
    """Few calls are no reason to open again."""
    made = opened()
    report(made, 10.0, Verdict.SUCCESS)
    assert made.snapshot(5000.0)["state"] == "half_open"
    report(made, 5000.0, Verdict.SUCCESS)
    assert made.state is State.CLOSED


def test_a_late_result_of_another_generation_changes_nothing() -> None:
    """Trap 4: neither reopens a closed breaker nor closes an open one."""
    made = breaker(success_threshold=1)
    early = [passed(made, 0.0) for _ in range(8)]
    report(made, 0.0, *[Verdict.FAILURE] * 5)
    made.record(early.pop(), 5.0, Verdict.SUCCESS)
    assert made.state is State.OPEN
    probe = passed(made, 10.0)
    made.record(early.pop(), 11.0, Verdict.FAILURE)
    assert made.state is State.HALF_OPEN
    made.record(probe, 12.0, Verdict.SUCCESS)
    for permit in early:
        made.record(permit, 13.0, Verdict.FAILURE)
    assert made.snapshot(13.0) | {"calls": 0, "failures": 0} == made.snapshot(13.0)
    assert made.state is State.CLOSED


def test_a_permit_reports_once() -> None:
    """The second report of a permit is ignored."""
    made = breaker(consecutive_failures=2)
    permit = passed(made, 0.0)
    for _ in range(5):
        made.record(permit, 0.0, Verdict.FAILURE)
    assert made.snapshot(0.0)["failures"] == 1


def test_a_health_probe_half_opens_and_never_closes() -> None:
    """It ends an open period early; a call must still prove the rest."""
    made = opened()
    made.probe_succeeded(1.0)
    made.probe_succeeded(1.0)
    assert made.state is State.HALF_OPEN
    made.force_open(2.0)
    made.probe_succeeded(3.0)
    assert made.state is State.FORCED_OPEN


def test_no_event_of_the_automation_leaves_a_person_s_switch() -> None:
    """The table itself has no such row."""
    automation = {Event.TRIP, Event.RECOVER, Event.PROBE_FAILED, Event.PROBES_PASSED}
    leaving = {event for (state, event) in TRANSITIONS if state in {State.FORCED_OPEN, State.DISABLED}}
    assert leaving.isdisjoint(automation)


def test_forced_open_stays_until_handed_back() -> None:
    """Time, successes, reloads and a policy that disables breakers do not lift it."""
    made = breaker()
    permit = passed(made, 0.0)
    made.force_open(0.0)
    made.record(permit, 1.0, Verdict.SUCCESS)
    made.configure(plans.Breaker(enabled=False))
    assert made.peek(1e9) is not None
    made.hand_back(1e9)
    assert made.state is State.CLOSED


def test_disabled_passes_everything_and_counts_nothing() -> None:
    """A person's switch for the day on which the breaker itself is wrong."""
    made = opened()
    made.disable(1.0)
    report(made, 1.0, *[Verdict.FAILURE] * 50)
    assert (made.state, made.snapshot(1.0)["failures"]) == (State.DISABLED, 0)
    made.hand_back(2.0)
    assert made.state is State.CLOSED


def test_a_policy_without_a_breaker_passes_everything() -> None:
    """``enabled: false`` lets calls pass and keeps what the state was."""
    made = opened()
    made.configure(plans.Breaker(enabled=False))
    report(made, 1.0, *[Verdict.FAILURE] * 50)
    made.configure(SETTINGS)
    assert made.peek(1.0) == 9.0


def test_hand_back_without_a_switch_does_nothing() -> None:
    """It is no way to close an open breaker by accident."""
    made = opened()
    made.hand_back(1.0)
    assert made.state is State.OPEN


def test_transitions_are_told() -> None:
    """The ledger and the metrics hear of each change, in order."""
    told: list[tuple[State, State]] = []
    made = Breaker(SETTINGS, on_transition=lambda old, new: told.append((old, new)), rng=lambda: 0.5)
    report(made, 0.0, *[Verdict.FAILURE] * 5)
    report(made, 10.0, Verdict.SUCCESS, Verdict.SUCCESS)
    assert told == [
        (State.CLOSED, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.CLOSED),
    ]


def test_memory_is_bounded() -> None:
    """A hundred thousand calls leave no more behind than eleven counts."""
    made = breaker(consecutive_failures=10**9, failure_ratio=2.0)
    for number in range(100_000):
        report(made, number / 100, Verdict.FAILURE)
    assert len(made._calls._buckets) <= 11


def test_a_snapshot_is_json() -> None:
    """The control plane shows it as it is."""
    shown = json.loads(json.dumps(opened().snapshot(1.0)))
    assert shown["state"] == "open"
    assert shown["retry_after_s"] == 9.0
