"""Which failures are sent again, decided purely."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.calls import Effect, Failure, Outcome, OutcomeKind, Reason
from outrider.policy.plans import Plan, Retry, Upstream
from outrider.stages.retry import Again, GiveUp, decide, is_retryable

ALL = Retry()


def plan(effect: Effect, retry: Retry = ALL) -> Plan:
    return Plan("u.t", Upstream("u"), effect, retry=retry)


def step(outcome: Outcome, effect: Effect = Effect.READ, **more: object) -> Again | GiveUp:
    retry = more.pop("retry", ALL)
    known: dict[str, object] = {"attempts": 1, "is_parent": False, "remaining_s": 30.0, "rng": lambda: 0.5} | more
    return decide(outcome, plan(effect, retry), **known)  # type: ignore[arg-type]


def failed(kind: OutcomeKind, reason: Reason, **more: object) -> Outcome:
    return Outcome(kind, failure=Failure(reason, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", [Reason.RESET, Reason.TIMEOUT, Reason.PROTOCOL])
@pytest.mark.parametrize("effect", list(Effect))
def test_an_ambiguous_failure_is_repeated_only_where_repeating_is_harmless(reason: Reason, effect: Effect) -> None:
    """A write that may have run is never sent again."""
    again = isinstance(step(failed(OutcomeKind.UNKNOWN, reason), effect), Again)
    assert again is effect.repeatable


@pytest.mark.parametrize("effect", list(Effect))
def test_what_provably_never_ran_is_repeated_for_every_effect(effect: Effect) -> None:
    """Connection refused, 429: nothing happened."""
    assert isinstance(step(failed(OutcomeKind.NOT_EXECUTED, Reason.CONNECT), effect), Again)


@pytest.mark.parametrize(
    ("status", "again"),
    [(400, False), (404, False), (409, False), (501, False), (505, False),
     (408, True), (500, True), (502, True), (503, True), (504, True)],
)  # fmt: skip
def test_statuses_of_a_read(status: int, again: bool) -> None:
    """The caller's own faults are answers; the upstream's troubles are tried again."""
    outcome = failed(OutcomeKind.DEFINITE, Reason.STATUS, status=status)
    assert isinstance(step(outcome), Again) is again


def test_an_exception_of_a_function_is_an_answer_unless_the_policy_names_its_type() -> None:
    """The type is matched along the MRO by its qualified name, exactly."""
    raised = failed(OutcomeKind.DEFINITE, Reason.RAISED, types=("app.Busy", "builtins.Exception"))
    assert isinstance(step(raised), GiveUp)
    assert isinstance(step(raised, retry=Retry(retry_on=("app.Busy",))), Again)
    assert isinstance(step(raised, retry=Retry(retry_on=("app.Bus",))), GiveUp)
    assert isinstance(step(raised, Effect.WRITE, retry=Retry(retry_on=("app.Busy",))), GiveUp)


def test_the_status_of_an_exception_counts_like_a_status() -> None:
    """A function whose HTTP client raised a 503."""
    raised = failed(OutcomeKind.DEFINITE, Reason.RAISED, status=503, types=("requests.exceptions.HTTPError",))
    assert isinstance(step(raised), Again)
    assert isinstance(step(raised, Effect.WRITE), GiveUp)
    wrong = failed(OutcomeKind.DEFINITE, Reason.RAISED, status=404, types=("requests.exceptions.HTTPError",))
    assert isinstance(step(wrong), GiveUp)


def test_max_attempts_includes_the_first() -> None:
    """Two attempts of two are all."""
    outcome = failed(OutcomeKind.UNKNOWN, Reason.RESET)
    assert isinstance(step(outcome, retry=Retry(max_attempts=2), attempts=1), Again)
    assert isinstance(step(outcome, retry=Retry(max_attempts=2), attempts=2), GiveUp)


def test_a_parent_of_other_calls_is_not_repeated() -> None:
    """Its children have run."""
    assert isinstance(step(failed(OutcomeKind.UNKNOWN, Reason.RESET), is_parent=True), GiveUp)


def test_retry_after_is_never_undercut() -> None:
    """The wait is at least what the upstream asked for, plus jitter."""
    outcome = failed(OutcomeKind.NOT_EXECUTED, Reason.STATUS, status=429, retry_after_s=3.0)
    answer = step(outcome, rng=lambda: 0.0)
    assert isinstance(answer, Again) and answer.delay_s >= 3.0


def test_a_retry_after_that_cannot_be_met_gives_up_and_passes_it_on() -> None:
    """Longer than retryAfter.max, or than what remains: retryable, later."""
    outcome = failed(OutcomeKind.NOT_EXECUTED, Reason.STATUS, status=429, retry_after_s=25.0)
    assert step(outcome) == GiveUp("the upstream asks to wait 25 s, longer than retryAfter.max", True, 25.0)
    near = failed(OutcomeKind.NOT_EXECUTED, Reason.STATUS, status=429, retry_after_s=5.0)
    answer = step(near, remaining_s=5.0)
    assert isinstance(answer, GiveUp) and answer.retryable and answer.retry_after_s == 5.0


@given(st.integers(1, 9), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_within_its_ceiling(attempts: int, luck: float) -> None:
    """sleep_r in [0, min(max, initial * multiplier^(r-1))]: full jitter."""
    retry = Retry(max_attempts=10)
    answer = step(failed(OutcomeKind.UNKNOWN, Reason.RESET), attempts=attempts, retry=retry, rng=lambda: luck)
    assert isinstance(answer, Again)
    assert 0 <= answer.delay_s <= min(retry.max_s, retry.initial_s * retry.multiplier ** (attempts - 1))


@given(st.sampled_from(list(Reason)), st.sampled_from([OutcomeKind.DEFINITE, OutcomeKind.UNKNOWN]),
       st.none() | st.integers(100, 599))  # fmt: skip
def test_no_failure_that_may_have_run_repeats_a_write(reason: Reason, kind: OutcomeKind, status: int | None) -> None:
    """For every failure: a write is sent again only on proof that it never ran."""
    failure = Failure(reason, status=status, types=("builtins.Exception",))
    generous = Retry(retry_on=(*ALL.retry_on, "builtins.Exception", "http-4xx", "raised"))
    assert not is_retryable(failure, kind, Effect.WRITE, generous)
