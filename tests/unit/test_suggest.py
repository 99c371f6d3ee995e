"""``outrider suggest``: what is counted, what is guessed and why, and the exact text for one day."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from outrider.calls import Agent
from outrider.policy.load import Policy, check_texts
from outrider.policy.plans import Plan, Upstream
from outrider.policy.rules import Facts
from outrider.suggest import guesses
from outrider.suggest.carried import Carried, of_texts
from outrider.suggest.seen import MAX_AGENTS, MAX_TOOLS, Seen, seen
from outrider.suggest.sketch import Sketch
from outrider.suggest.written import Suggestion, suggested
from tests.support.ledger_story import Story

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "suggest" / "one_day.yaml"
HERE = Path("/nowhere")
OBSERVING = """\
apiVersion: outrider.dev/v1alpha1
kind: Policy
metadata: {name: shop}
mode: observe
defaults: {timeouts: {total: 20m, perTry: 5m}}
upstreams:
  shop:
    http:
      url: "http://127.0.0.1:9000"
      headers: {Authorization: "Bearer {env:SHOP_TOKEN}"}
tools:
  - {match: shop.get_order, http: {method: GET, path: "/orders/{args.id}"}}
  - {match: "shop.pay*", effect: keyed, idempotency: {send: {header: Idempotency-Key}}}
rules:
  - {name: own process, tools: ["local.*"], then: allow}
  - {name: no shell, tools: ["local.shell*"], then: deny, reason: never}
  - {name: small refunds, tools: [shop.refund], when: args.amount < 50, then: allow}
"""


def known(text: str = OBSERVING) -> Carried:
    return of_texts({"policy.yaml": text}, HERE)


def suggestion(story: Story, text: str = OBSERVING) -> Suggestion:
    return suggested(seen(story), known(text), HERE)


def policy_of(made: Suggestion) -> Policy:
    policy, _ = check_texts({"policy.yaml": made.text.encode()}, HERE, env={"SHOP_TOKEN": "sample"})
    assert policy is not None, [str(fault) for fault in made.faults]
    return policy


def allows(policy: Policy, agent: str, tool: str, **args: Any) -> bool:
    return policy.rules.decide(Facts(tool, args, Agent(agent))).effect == "allow"


@pytest.fixture(scope="module")
def day() -> Story:
    """One day under a policy that observed: two agents, some trouble, a shell."""
    story = Story()
    story.policy("d1")
    for n in range(40):
        story.call("support", "shop.get_order", took_ms=20 + n, decision="no_rule", observed="no_rule", effect="read")
        story.call("support", "local.find_customer", took_ms=5, rule="own process")
        story.call("billing", "shop.pay_invoice", took_ms=400 + 10 * n, decision="no_rule", observed="no_rule")
    story.calls(7, "billing", "shop.get_order", failure="timeout", decision="no_rule", observed="no_rule")
    story.calls(6, "billing", "shop.reindex", failure="status", status=503, decision="no_rule", observed="no_rule")
    story.call("billing", "shop.report", took_ms=50_000, decision="no_rule", observed="no_rule")
    story.calls(3, "support", "local.shell_exec", decision="deny", rule="no shell", observed="denied")
    story.calls(2, "support", "shop.refund", rule="small refunds")
    story.call("support", "nowhere.x", decision="", refused="unknown_tool")
    return story


def test_one_day_gives_exactly_this_policy(day: Story) -> None:
    """Read the difference before you keep it: ``OUTRIDER_UPDATE_GOLDEN=1`` writes the text anew."""
    text = suggestion(day).text
    if os.environ.get("OUTRIDER_UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text("utf-8")
    assert suggestion(day).text == text


def test_what_was_seen_is_allowed_and_nothing_else(day: Story) -> None:
    """Each agent its own tools; what a person denied stays denied, a rule with a condition stays a condition."""
    policy = policy_of(suggestion(day))
    assert policy.mode == "enforce"
    assert allows(policy, "support", "shop.get_order") and allows(policy, "billing", "shop.get_order")
    assert allows(policy, "support", "local.find_customer") and not allows(policy, "billing", "local.find_customer")
    assert not allows(policy, "support", "shop.pay_invoice") and not allows(policy, "stranger", "shop.get_order")
    assert not allows(policy, "support", "local.shell_exec") and not allows(policy, "support", "local.other")
    assert allows(policy, "support", "shop.refund", amount=10) and not allows(
        policy, "support", "shop.refund", amount=90
    )


def test_what_a_person_said_is_kept_and_not_guessed_over(day: Story) -> None:
    """Upstreams with their secrets by reference, templates, effects and keys."""
    policy = policy_of(suggestion(day))
    pay, get = policy.plan("shop.pay_invoice"), policy.plan("shop.get_order")
    assert pay is not None and get is not None
    assert (pay.effect, pay.idempotency_header) == ("keyed", "Idempotency-Key")
    assert (get.http.method, get.http.path) == ("GET", "/orders/{args.id}")
    assert '"Bearer {env:SHOP_TOKEN}"' in suggestion(day).text


def test_every_guess_is_marked_and_reasoned(day: Story) -> None:
    """No value that nobody said stands there without a word."""
    lines = suggestion(day).text.splitlines()
    keys = ("effect:", "perTry:", "breaker:", "rateLimits:", "timeouts: {")
    guessed = [n for n, line in enumerate(lines) if line.strip().startswith(keys)]
    assert len(guessed) >= 10
    assert [lines[n] for n in guessed if "# REVIEW: " not in lines[n] + lines[n - 1]] == []


@pytest.mark.parametrize(
    ("operation", "method", "effect"),
    [
        ("get_balance", "", "read"), ("listOrders", "", "read"), ("search", "", "read"), ("find-customer", "", "read"),
        ("create_order", "", "write"), ("send", "", "write"), ("delete_all", "", "write"), ("frobnicate", "", "write"),
        ("find_and_replace", "", "write"), ("get_or_create", "", "write"), ("list_and_delete", "", "write"),
        ("get_order", "", "read"), ("listEmails", "", "read"), ("read_post", "", "read"), ("order", "", "write"),
        ("find_and_book", "", "write"), ("", "", "write"), ("查询", "", "write"), ("getaway", "", "write"),
        ("target", "", "write"), ("create_order", "GET", "read"),
        ("get", "POST", "write"), ("x", "PUT", "idempotent"),
        ("get", "DELETE", "idempotent"), ("get", "PATCH", "write"), ("delete", "HEAD", "read"),
    ],
)  # fmt: skip
def test_an_effect_is_guessed_by_method_then_name_and_in_doubt_it_is_a_write(
    operation: str, method: str, effect: str
) -> None:
    """A read that writes would be repeated; a write that reads is only less patient."""
    assert guesses.effect(operation, method).value == effect


@pytest.mark.parametrize(
    ("operation", "claims", "effect"),
    [
        ("frobnicate", {"read"}, "read"), ("order_status", {"read"}, "read"), ("x", {"idempotent"}, "idempotent"),
        ("get_x", {"write"}, "write"), ("delete_x", {"read"}, "write"), ("x", {"read", "write"}, "write"),
    ],
)  # fmt: skip
def test_annotations_count_unless_the_name_says_that_it_writes(operation: str, claims: set[str], effect: str) -> None:
    """They are the tool's own word, and may be wrong or a lie."""
    assert guesses.effect(operation, "", claims).value == effect


def tool_that_took(*ms: float, cut: int = 0) -> Any:
    story = Story()
    for took in ms:
        story.call("a", "up.x", took_ms=took)
    tool = seen(story).tools["up.x"]
    tool.cut = cut
    return tool


@pytest.mark.parametrize(
    ("took", "cut", "expected"),
    [
        ([10.0] * 100, 0, "1s"),  # at least a second
        ([1100.0] * 100, 0, "5s"),  # 3 x p99, rounded up
        ([10.0] * 999 + [40_000.0], 0, "1m"),  # the longest that was seen still fits
        ([10.0] * 5, 0, None),  # too few to tell, and the default is enough
        ([50_000.0], 0, "2m"),  # too few to tell, and the default would have cut it
        ([10.0] * 100, 3, "5m"),  # a timeout cut some: not lowered below the one in force
    ],
)
def test_a_timeout_never_cuts_what_was_seen(took: list[float], cut: int, expected: str | None) -> None:
    """From percentiles where there are enough, from the longest where there are not."""
    guess = guesses.per_try(tool_that_took(*took, cut=cut), in_force_s=300.0, default_s=30.0)
    assert (guess.value if guess else None) == expected


def test_the_total_leaves_time_for_every_attempt() -> None:
    """So that ``check`` has nothing to say of it."""
    total_s = guesses.total_s(tool_that_took(10.0), 8.0, Plan("up.x", Upstream("up")))
    assert total_s >= 3 * 8.0 + 0.2 + 0.4


def test_a_breaker_is_suggested_where_failures_cluster(day: Story) -> None:
    """Not where they are scattered."""
    place = seen(day).places["shop"]
    assert (place.clusters, place.longest_run) == (1, 13)
    assert guesses.breaker(place) is not None
    scattered = Story()
    for _ in range(50):
        scattered.calls(4, "a", "shop.x", failure="reset")
        scattered.call("a", "shop.x")
    assert guesses.breaker(seen(scattered).places["shop"]) is None


def test_a_broken_function_is_no_broken_upstream() -> None:
    """What a function raises, and a 404, are answers."""
    story = Story()
    story.calls(30, "a", "local.f", failure="raised")
    story.calls(30, "a", "up.f", failure="status", status=404)
    found = seen(story)
    assert (found.places["local"].faults, found.places["up"].faults) == (0, 0)


def test_slots_are_twice_what_ran_at_once() -> None:
    """Fifteen attempts open at the same time; what a crash left open is not counted on."""
    story = Story()
    for n in range(15):
        story.add("attempt.started", call_id=f"x{n}", attempt=1, tool="up.x", upstream="up", agent={"name": "a"})
    story.add("sidecar.started")
    for n in range(9):
        story.add("attempt.started", call_id=f"y{n}", attempt=1, tool="up.x", upstream="up", agent={"name": "a"})
    place = seen(story).places["up"]
    assert place.most_at_once == 15
    guess = guesses.max_concurrent(place, in_force=10)
    assert guess is not None and guess.value == 30
    assert guesses.max_concurrent(place, in_force=50) is None


def test_a_flood_of_names_is_bounded_and_told() -> None:
    """The most are kept, and how many are not is said."""
    story = Story()
    for n in range(MAX_AGENTS + 500):
        story.call(f"agent-{n}", f"local.tool{n}")
    found = seen(story)
    assert (len(found.agents), len(found.tools)) == (MAX_AGENTS, MAX_TOOLS)
    made = suggested(found, Carried(), HERE)
    assert made.left_out["records of further agents"] == 500 and "left out: 500 records of further agents" in made.text
    assert [fault for fault in made.faults if fault.severity == "error"] == []


def test_agents_that_do_the_same_share_a_rule() -> None:
    """A thousand workers are one rule, or as few as may name them all."""
    story = Story()
    for n in range(600):
        story.call(f"worker-{n:03}", "local.step")
    policy = policy_of(suggested(seen(story), Carried(), HERE))
    assert len(policy.rules.rules) == 3
    assert all(allows(policy, f"worker-{n:03}", "local.step") for n in (0, 299, 599))


def test_what_a_seen_tool_falls_back_to_is_allowed_too() -> None:
    """It would be missed on the day it is needed."""
    text = OBSERVING.replace(
        "rules:",
        "  - {match: shop.search, effect: read, fallback: [{tool: shop.cached}, {static: {value: 1}}]}\nrules:",
    )
    story = Story()
    story.call("support", "shop.search", decision="no_rule", observed="no_rule")
    assert allows(policy_of(suggestion(story, text)), "support", "shop.cached")


def test_what_a_section_that_is_kept_would_still_refuse_is_told() -> None:
    """Who is expected is a person's word: it is carried over, and what it means for what was seen is said."""
    text = OBSERVING + "agents: {expected: [{name: billing}], undeclared: deny}\n"
    story = Story()
    story.call("support", "shop.get_order", observed="agent_undeclared", rule="r")
    made = suggestion(story, text)
    assert "REVIEW: 'shop.get_order' by 'support' would still be refused: 1 x agent_undeclared" in made.text
    assert policy_of(made).agents.undeclared == "deny"


@pytest.mark.parametrize("name", ["adm*", "*", " x", "x ", "a\nb", "x" * 300, ""])
def test_a_name_that_would_be_a_pattern_is_never_written_as_one(name: str) -> None:
    """An agent called ``*`` is not everybody."""
    story = Story()
    story.call(name, "local.f")
    story.call("ann", f"local.{name}")
    made = suggestion(story)
    policy = policy_of(made)
    assert not allows(policy, "admin", "local.f") and not allows(policy, "ann", "local.f")
    assert "not allowed: " in made.text


def test_a_policy_that_enforces_keeps_its_own_timeouts() -> None:
    """Only the first days' patience is taken back."""
    text = OBSERVING.replace("mode: observe\n", "")
    assert "timeouts: {total: 20m, perTry: 5m}" in suggestion(Story(), text).text
    assert "timeouts: {total: 2m, perTry: 30s" in suggestion(Story()).text


def test_a_guess_that_would_contradict_what_was_said_is_left_out() -> None:
    """A wait of ten minutes does not fit into two; then the old timeouts stay."""
    text = OBSERVING.replace("perTry: 5m}}", "perTry: 5m}, retry: {retryAfter: {max: 10m}}}")
    made = suggestion(Story(), text)
    assert "total: 20m" in made.text
    assert policy_of(made)


def test_files_beside_the_old_policy_are_told_of() -> None:
    """They are looked for in the new one's folder."""
    for extra in ("caFile: ca.pem", 'headers: {Authorization: "Bearer {file:token}"}'):
        head = "apiVersion: outrider.dev/v1alpha1\nkind: Policy\n"
        text = f'{head}upstreams: {{up: {{http: {{url: "http://127.0.0.1:1", {extra}}}}}}}\n'
        made = suggestion(Story(), text)
        assert "REVIEW: names files by relative paths" in made.text
    assert "relative paths" not in suggestion(Story()).text


def test_nothing_seen_gives_a_policy_that_allows_nothing() -> None:
    """And says so."""
    made = suggested(Seen(), Carried(), HERE)
    assert [fault.code for fault in made.faults] == ["W06"]


def test_a_percentile_is_at_most_two_percent_too_long() -> None:
    """Whatever the durations are."""
    sketch = Sketch()
    for ms in range(1, 10_001):
        sketch.add(float(ms))
    for share, exact in ((0.5, 5000), (0.9, 9000), (0.99, 9900), (1.0, 10_000)):
        assert exact <= sketch.percentile_ms(share) <= exact * 1.021
    sketch.add(float("nan"))
    sketch.add(-1.0)
    assert sketch.count == 10_000
    assert Sketch().percentile_ms(0.99) == 0.0
