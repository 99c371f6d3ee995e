"""Layers: from least specific to most, key by key; and the plan that they make."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.calls import Effect
from outrider.errors import Misconfigured
from outrider.policy.load import Policy, load
from outrider.policy.plans import Plan, Retry, Timeouts
from outrider.policy.units import format_duration

HEAD = "apiVersion: outrider.dev/v1alpha1\nkind: Policy\n"
UPSTREAMS = 'upstreams:\n  ledger: {http: {url: "http://127.0.0.1:9000"}}\n'
ALLOW = 'rules:\n  - {name: all, tools: ["*"], then: allow}\n'


def loaded(folder: Path, text: str, name: str = "policy.yaml") -> Policy:
    (folder / name).write_text(HEAD + UPSTREAMS + text + ALLOW, encoding="utf-8")
    return load(folder, env={})


def plan(policy: Policy, tool: str) -> Plan:
    found = policy.plan(tool)
    assert found is not None
    return found


def test_without_a_word_a_tool_is_a_write_with_the_languages_defaults(tmp_path: Path) -> None:
    """An unknown operation of a known upstream is called with care."""
    found = plan(loaded(tmp_path, ""), "ledger.anything")
    assert (found.effect, found.timeouts, found.retry) == (Effect.WRITE, Timeouts(), Retry())
    assert found.sources == {}


def test_more_specific_layers_win_key_by_key(tmp_path: Path) -> None:
    """defaults, then shorter prefixes, then longer ones, then the exact name; order in the file is nothing."""
    policy = loaded(
        tmp_path,
        "defaults: {effect: idempotent, timeouts: {total: 60s, perTry: 10s}}\n"
        "tools:\n"
        "  - {match: ledger.get_one, timeouts: {connect: 500ms}}\n"
        '  - {match: "ledger.get_*", effect: read, timeouts: {perTry: 5s}}\n'
        '  - {match: "ledger.*", timeouts: {total: 50s, perTry: 9s}}\n',
    )
    assert plan(policy, "ledger.get_one").timeouts == Timeouts(50.0, 5.0, 0.5)
    assert plan(policy, "ledger.get_one").effect is Effect.READ
    assert plan(policy, "ledger.get_two").timeouts == Timeouts(50.0, 5.0, 2.0)
    assert plan(policy, "ledger.put").timeouts == Timeouts(50.0, 9.0, 2.0)
    assert plan(policy, "local.put").timeouts == Timeouts(60.0, 10.0, 2.0)


def test_each_value_says_where_it_comes_from(tmp_path: Path) -> None:
    """`sources` names file and line of the layer that won, for each key that any layer says."""
    policy = loaded(
        tmp_path,
        'defaults: {timeouts: {total: 60s, perTry: 10s}}\ntools:\n  - match: "ledger.*"\n    effect: read\n'
        "    timeouts:\n      perTry: 5s\n",
    )
    assert plan(policy, "ledger.x").sources == {
        "timeouts.total": "policy.yaml:5",
        "timeouts.perTry": "policy.yaml:10",
        "effect": "policy.yaml:8",
    }


def test_lists_replace_and_maps_merge(tmp_path: Path) -> None:
    """A longer layer's list stands instead of a shorter one's; a longer layer's map adds to it."""
    policy = loaded(
        tmp_path,
        "tools:\n"
        '  - match: "ledger.*"\n    effect: read\n    redact: [$.args.a, $.args.b]\n    http: {query: {a: x, b: y}}\n'
        "    retry: {retryOn: [timeout]}\n    fallback: [{static: {value: 1}}]\n"
        "  - match: ledger.one\n    redact: [$.args.c]\n    http: {query: {b: z, c: w}}\n"
        "    retry: {retryOn: [reset]}\n    fallback: []\n",
    )
    found = plan(policy, "ledger.one")
    assert found.redact == ("$.args.c",)
    assert found.http.query == {"a": "x", "b": "z", "c": "w"}
    assert found.retry.retry_on == ("reset",)
    assert found.fallback == ()
    assert plan(policy, "ledger.two").fallback[0].static == 1


def test_a_body_and_a_place_for_the_key_are_one_value(tmp_path: Path) -> None:
    """A body is a document, not a map of settings; a key travels in one place, the nearer layer's."""
    policy = loaded(
        tmp_path,
        "tools:\n"
        '  - match: "ledger.*"\n    effect: keyed\n    idempotency: {send: {header: A}}\n'
        "    http: {body: {a: 1, b: {c: 2}}}\n"
        "  - match: ledger.one\n    idempotency: {send: {argument: key}}\n    http: {body: {b: {d: 3}}}\n",
    )
    found = plan(policy, "ledger.one")
    assert (found.idempotency_header, found.idempotency_argument) == ("", "key")
    assert found.http.body == {"b": {"d": 3}}


def test_two_entries_with_the_same_pattern_may_divide_the_keys(tmp_path: Path) -> None:
    """Equal specificity is only an error where both say the same key (E27)."""
    policy = loaded(
        tmp_path,
        'tools:\n  - {match: "ledger.*", effect: read}\n  - {match: "ledger.*", timeouts: {total: 20s}}\n',
    )
    assert (plan(policy, "ledger.x").effect, plan(policy, "ledger.x").timeouts.total_s) == (Effect.READ, 20.0)


def test_a_domain_is_the_common_one_with_the_upstreams_own_keys_over_it(tmp_path: Path) -> None:
    """`domain` and `upstreams.X.domain` merge key by key; `local` takes part."""
    (tmp_path / "policy.yaml").write_text(
        HEAD
        + "domain: {breaker: {openFor: 10s, minCalls: 4}, bulkhead: {maxConcurrent: 3}, rateLimits: [{rate: 10/s}]}\n"
        "upstreams:\n"
        '  ledger: {http: {url: "http://127.0.0.1:9000"}, domain: {breaker: {minCalls: 7}, rateLimits: []}}\n'
        "  local: {domain: {bulkhead: {maxQueue: 1}}}\n" + ALLOW,
        encoding="utf-8",
    )
    upstreams = load(tmp_path, env={}).upstreams
    ledger, local = upstreams["ledger"].domain, upstreams["local"].domain
    assert (ledger.breaker.open_for_s, ledger.breaker.min_calls, ledger.bulkhead.max_concurrent) == (10.0, 7, 3)
    assert ledger.rate_limits == ()
    assert (local.breaker.min_calls, local.bulkhead.max_concurrent, local.bulkhead.max_queue) == (4, 3, 1)
    assert local.rate_limits[0].burst == 10


@pytest.mark.parametrize(
    "tool",
    ["", "ledger", "ledger.", ".x", "other.x", "ledger.../admin", "ledger.a/b", "ledger.a b", "ledger..x", "ledger.a\n",
     "local.", "local.a\x00", "local." + "x" * 200, "LEDGER.x"],
)  # fmt: skip
def test_what_cannot_be_a_tools_name_has_no_plan(tmp_path: Path, tool: str) -> None:
    """No plan means unknown_tool: nothing of the name can reach a path or a log."""
    assert loaded(tmp_path, "").plan(tool) is None


@pytest.mark.parametrize(
    "tool", ["ledger.x", "ledger.get_one-2:v1.beta", "local.Search the web", "local.größe", "local.a.b"]
)
def test_what_can_be_a_tools_name_has_one(tmp_path: Path, tool: str) -> None:
    """In-process names are whatever a framework uses; names over HTTP are what fits into a path."""
    assert plan(loaded(tmp_path, ""), tool).tool == tool


def test_plans_are_built_once_and_remembered_within_bounds(tmp_path: Path) -> None:
    """Asking again is a look-up; asking for ever new names does not grow memory for ever."""
    policy = loaded(tmp_path, "")
    assert policy.plan("ledger.x") is policy.plan("ledger.x")
    for number in range(5000):
        policy.plan(f"local.t{number}")
    assert policy._book.plan.cache_info().currsize <= 4096


def test_a_reload_of_the_same_files_gives_an_equal_policy(tmp_path: Path) -> None:
    """Nothing of a policy depends on the time or the order of a dictionary."""
    first, second = loaded(tmp_path, ""), load(tmp_path, env={})
    assert first.digest == second.digest
    assert first.upstreams == second.upstreams
    assert first.summary() == second.summary()


PREFIXES = ["ledger.", "ledger.a", "ledger.ab", "ledger.abc", "ledger.b"]


@given(st.dictionaries(st.sampled_from(PREFIXES), st.integers(9, 99), max_size=5), st.randoms(use_true_random=False))
def test_the_longest_matching_prefix_decides_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, totals: dict[str, int], random: object
) -> None:
    """Against a plain model: of all prefixes that match, the longest that says a key gives its value."""
    folder = tmp_path_factory.mktemp("policy")
    entries = [
        f'  - {{match: "{prefix}*", effect: read, timeouts: {{total: {total}s}}}}\n' for prefix, total in totals.items()
    ]
    random.shuffle(entries)  # type: ignore[attr-defined]
    policy = loaded(folder, "tools:\n" + "".join(entries) if entries else "")
    for tool in ("ledger.abcd", "ledger.ab", "ledger.ax", "ledger.b", "ledger.c", "local.a"):
        matching = [prefix for prefix in totals if tool.startswith(prefix)]
        expected = totals[max(matching, key=len)] if matching else 30
        assert plan(policy, tool).timeouts.total_s == expected


@given(st.integers(0, 400_000_000))
def test_durations_survive_being_written_and_read(milliseconds: int) -> None:
    """What a message shows can be pasted into a policy."""
    from outrider.policy.units import parse_duration

    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


def test_loading_is_whole_or_not_at_all(tmp_path: Path) -> None:
    """One fault anywhere, and there is no policy; the exception holds every fault."""
    with pytest.raises(Misconfigured) as caught:
        loaded(tmp_path, "defaults: {timeouts: {total: 5}}\ntools:\n  - {match: foo.bar, effect: read}\n")
    assert [fault.code for fault in caught.value.faults] == ["E02", "E33"]
