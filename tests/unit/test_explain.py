"""``outrider explain``: where every value stands, which rules hold and why, and never a secret."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.calls import Agent
from outrider.cli import main
from outrider.explain.answer import explanation
from outrider.explain.provenance import BUILT_IN, Places
from outrider.policy.load import SECRETS_MISSING, check, load
from outrider.policy.rules import Facts
from outrider.policy.units import parse_duration

EXAMPLES = Path(__file__).resolve().parents[2] / "policies" / "examples"
SECRET = "s3cret-never-to-be-shown"
ONE = """\
apiVersion: outrider.dev/v1alpha1
kind: Policy
metadata: {name: shop}
defaults:
  timeouts:
    total: 30s
    perTry: 8s
domain:
  bulkhead: {maxConcurrent: 7}
upstreams:
  ledger:
    http:
      url: "http://127.0.0.1:9000/base"
      headers:
        Authorization: "Bearer {env:LEDGER_TOKEN}"
        X-Team: blue-as-the-sea
    domain: {bulkhead: {maxConcurrent: 20}}
"""
TWO = """\
apiVersion: outrider.dev/v1alpha1
kind: Policy
tools:
  - match: "ledger.*"
    effect: idempotent
    timeouts: {perTry: 5s}
  - match: "ledger.get_*"
    effect: read
  - match: ledger.get_balance
    timeouts: {perTry: 1500ms}
    http: {method: GET, path: "/accounts/{args.id}", query: {at: "{args.at}"}}
rules:
  - name: readers
    tools: ["ledger.get_*"]
    agents: ["support-*"]
    then: allow
  - name: no big accounts
    tools: [ledger.get_balance, ledger.close]
    when: args.id.startsWith("big")
    then: deny
    reason: ask the bank
  - name: watched
    tools: ["*"]
    when: args.at == "noon"
    then: deny
    mode: observe
  - {name: elsewhere, tools: ["local.*"], then: allow}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEDGER_TOKEN", SECRET)
    (tmp_path / "one.yaml").write_text(ONE)
    (tmp_path / "two.yaml").write_text(TWO)
    return tmp_path


def asked(folder: Path, tool: str = "ledger.get_balance", agent: str = "support-1", **args: Any) -> dict[str, Any]:
    return explanation(load(folder), Facts(tool, args, Agent(agent)))


def by_key(values: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {value["key"]: value for value in values}


def rules_of(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {rule["name"]: rule for rule in answer["rules"]}


def test_every_value_names_the_line_that_says_it_and_what_it_replaces(folder: Path) -> None:
    """As it is written, over all files and layers; what nobody says is built in."""
    plan = by_key(asked(folder, id="7")["plan"])
    assert plan["timeouts.perTry"] == {
        "key": "timeouts.perTry", "value": "1500ms", "at": "two.yaml:10",
        "over": [
            {"value": "5s", "at": "two.yaml:6"}, {"value": "8s", "at": "one.yaml:7"}, {"value": "8s", "at": BUILT_IN},
        ],
    }  # fmt: skip
    assert (plan["timeouts.total"]["value"], plan["timeouts.total"]["at"]) == ("30s", "one.yaml:6")
    assert (plan["effect"]["value"], plan["effect"]["at"]) == ("read", "two.yaml:8")
    assert (plan["retry.maxAttempts"]["value"], plan["retry.maxAttempts"]["at"]) == (3, BUILT_IN)
    assert (plan["http.query.at"]["value"], plan["http.query.at"]["at"]) == ("{args.at}", "two.yaml:11")
    domain = by_key(asked(folder, id="7")["domain"]["values"])
    assert domain["bulkhead.maxConcurrent"]["value"] == 20 and domain["bulkhead.maxConcurrent"]["at"] == "one.yaml:17"
    assert domain["bulkhead.maxConcurrent"]["over"][0] == {"value": 7, "at": "one.yaml:9"}


def test_a_kind_of_upstream_shows_only_what_it_has(folder: Path) -> None:
    """A function in the agent's process has no path, an HTTP tool no placement."""
    local, http = by_key(asked(folder, "local.f")["plan"]), by_key(asked(folder, id="7")["plan"])
    assert "placement" in local and "http.path" not in local and "timeouts.connect" not in local
    assert "placement" not in http and "http.path" in http
    assert asked(folder, "local.f")["request"] is None


def test_the_request_is_the_one_that_would_be_sent(folder: Path) -> None:
    """Method, address and body as the sender renders them; of headers the names and where their secrets come from."""
    request = asked(folder, id="a/b", at="noon")["request"]
    assert (request["method"], request["body"]) == ("GET", None)
    assert request["url"] == "http://127.0.0.1:9000/base/accounts/a%2Fb?at=noon"
    assert request["headers"] == {"Authorization": "«env:LEDGER_TOKEN»", "X-Team": "«not shown»"}
    assert "id" in asked(folder)["request"]["error"]  # the argument that the path needs is not given


def test_no_secret_is_ever_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither one that is resolved nor one that somebody wrote out; for people and for programs."""
    words = ["explain", "--tool", "ledger.get_balance", "--args", '{"id": "7"}', "--policy", str(folder)]
    for more in ([], ["--json"]):
        assert main([*words, *more]) == 0
        shown = capsys.readouterr().out
        assert "ledger.get_balance" in shown
        assert SECRET not in shown and "blue-as-the-sea" not in shown


def test_it_works_without_the_secrets_of_the_sidecar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks sits at another desk; the policy's word is the same."""
    monkeypatch.delenv("LEDGER_TOKEN")
    assert load_fails(folder)
    assert main(["explain", "--tool", "ledger.get_balance", "--policy", str(folder)]) == 0


def load_fails(folder: Path) -> bool:
    return check(folder)[0] is None


@pytest.mark.parametrize(
    ("agent", "args", "refused", "decides", "why"),
    [
        ("support-1", {"id": "7"}, None, "readers",
         {"readers": "decides", "no big accounts": "its condition is false", "elsewhere": "speaks of other tools"}),
        ("support-1", {"id": "big1"}, "denied", "no big accounts", {"readers": "matches, and another rule decides"}),
        ("sales-1", {"id": "7"}, "no_rule", None, {"readers": "speaks of other agents"}),
        ("support-1", {}, "denied", "no big accounts",
         {"no big accounts": "its condition cannot be evaluated, which denies: "
          "'id' is not there; guard it with has(…)"}),
        ("support-1", {"id": "7", "at": "noon"}, None, "readers",
         {"watched": "matches, and is only watched (mode: observe)"}),
    ],
)  # fmt: skip
def test_each_rule_says_why_it_holds_or_not(
    folder: Path, agent: str, args: dict[str, Any], refused: str | None, decides: str | None, why: dict[str, str]
) -> None:
    """Other tools, other agents, a condition that is false, that cannot be evaluated, that another outranks."""
    answer = asked(folder, agent=agent, **args)
    found = rules_of(answer)
    assert (answer["refused"], answer["decision"]["rule"]) == (refused, decides)
    assert [name for name, rule in found.items() if rule["decides"]] == ([decides] if decides else [])
    assert {name: found[name]["why"] for name in why} == why
    assert found["readers"]["at"] == "two.yaml:13" and found["readers"]["tool_pattern"] == "ledger.get_*"


def test_a_policy_that_observes_is_told_as_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It passes, and what would have been is said."""
    (folder / "mode.yaml").write_text("apiVersion: outrider.dev/v1alpha1\nkind: Policy\nmode: observe\n")
    answer = asked(folder, agent="sales-1", id="7")
    assert (answer["refused"], answer["decision"]["effect"]) == (None, "no_rule")
    assert (answer["policy"]["mode"], answer["policy"]["mode_at"]) == ("observe", "mode.yaml:3")
    assert main(["explain", "--tool", "ledger.close", "--args", '{"id":"x"}', "--policy", str(folder)]) == 0
    assert "passes, because the policy only observes" in capsys.readouterr().out


TOOLS = (
    "web.search",
    "web.fetch",
    "cache.search",
    "local.write_note",
    "local.x",
    "ledger.create_payment",
    "ledger.get_x",
)


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()))
@given(
    agent=st.sampled_from(["research-1", "bot", "support-2"]),
    tool=st.sampled_from(TOOLS),
    args=st.dictionaries(st.sampled_from(["amount", "url", "limit"]), st.sampled_from([1, 900, "https://x.test"])),
)
def test_what_is_explained_is_what_is_in_force(example: str, agent: str, tool: str, args: dict[str, Any]) -> None:
    """The decision is the rules' own, and every value that is shown is the one that the plan holds."""
    policy, _ = check(EXAMPLES / example, forgive=SECRETS_MISSING)
    assert policy is not None
    facts = Facts(tool, args, Agent(agent))
    answer, decision, plan = explanation(policy, facts), policy.rules.decide(facts), policy.plan(tool)
    assert (answer["decision"]["effect"], answer["decision"]["rule"]) == (decision.effect, decision.rule)
    assert [rule["name"] for rule in answer["rules"] if rule["decides"]] == ([decision.rule] if decision.rule else [])
    if plan is None:
        assert answer["refused"] == "unknown_tool" and "plan" not in answer
        return
    shown = by_key(answer["plan"])
    assert shown["effect"]["value"] == plan.effect
    assert parse_duration(shown["timeouts.total"]["value"]) == plan.timeouts.total_s
    assert parse_duration(shown["timeouts.perTry"]["value"]) == plan.timeouts.per_try_s
    assert shown["retry.maxAttempts"]["value"] == plan.retry.max_attempts
    assert parse_duration(shown["retry.backoff.max"]["value"]) == plan.retry.max_s
    domain = by_key(answer["domain"]["values"])
    assert domain["bulkhead.maxConcurrent"]["value"] == plan.upstream.domain.bulkhead.max_concurrent
    assert parse_duration(domain["breaker.openFor"]["value"]) == plan.upstream.domain.breaker.open_for_s
    beside = {"timeouts.connect"} if plan.upstream.http is None else set()
    sources = {key: at for key, at in plan.sources.items() if key not in beside}
    assert {key: value["at"] for key, value in shown.items() if value["at"] != BUILT_IN} == sources


@pytest.mark.parametrize(
    ("section", "agent", "tool", "refused"),
    [
        ("{expected: [{name: sales-1}], undeclared: deny}", "support-1", "ledger.get_balance", "agent_undeclared"),
        ("{expected: [{name: support-1}], undeclared: deny}", "support-1", "ledger.get_balance", None),
        ("{expected: [{name: sales-1}], undeclared: quarantine}", "support-1", "ledger.get_balance", None),
        ("{expected: [{name: sales-1}], undeclared: quarantine}", "support-1", "ledger.open", "agent_undeclared"),
        ("{requireOwner: true}", "support-1", "ledger.get_balance", "agent_undeclared"),
    ],
)
def test_whom_the_policy_does_not_expect_is_told(
    folder: Path, section: str, agent: str, tool: str, refused: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the rules are asked, as a call is."""
    head = "apiVersion: outrider.dev/v1alpha1\nkind: Policy\n"
    (folder / "who.yaml").write_text(
        f"{head}agents: {section}\nrules: [{{name: x, tools: [ledger.open], then: allow}}]\n"
    )
    answer = asked(folder, tool, agent, id="7")
    assert answer["refused"] == refused and bool(answer["unexpected"]) is (refused is not None)
    assert main(["explain", "--tool", tool, "--agent", agent, "--args", '{"id":"7"}', "--policy", str(folder)]) == 0
    assert ("agents.expected" in capsys.readouterr().out) is (refused is not None)


def test_json_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs."""
    words = ["explain", "--tool", "ledger.get_balance", "--agent", "support-1", "--args", '{"id": "7"}', "--json"]
    assert main([*words, "--policy", str(folder)]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {
        "tool", "agent", "policy", "refused", "unexpected", "decision", "rules", "upstream", "plan", "domain",
        "request",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "say what is to be explained"),
        (["call-1", "--tool", "local.x"], 2, "say what is to be explained"),
        (["--tool", "local.x", "--args", "[1]"], 2, "--args is not a JSON object"),
        (["--tool", "local.x", "--args", "{"], 2, "--args is not JSON"),
        (["--tool", "local.x", "--label", "tier"], 2, "--label 'tier' is no label"),
        (["--tool", "local.x", "--at", "noon"], 2, "--at 'noon' is no time"),
        (["--tool", "local.x", "--policy", "/nowhere"], 1, "there is no such folder"),
        (["call-1", "--data", "/nowhere"], 1, "there is no ledger here"),
    ],
)
def test_what_is_asked_wrongly_is_told_with_how_to_mend_it(
    folder: Path, words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What, where, how to mend it; nothing on stdout."""
    assert main(["explain", "--policy", str(folder), *words]) == code
    shown = capsys.readouterr()
    assert told in shown.err and shown.out == ""


def test_a_policy_with_faults_is_not_explained_away(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its faults are told instead."""
    (folder / "two.yaml").write_text(TWO.replace("effect: read", "effect: reed"))
    assert main(["explain", "--tool", "ledger.get_balance", "--policy", str(folder)]) == 1
    assert "two.yaml:8" in capsys.readouterr().err


GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "explain"
SHOWN = {
    "payments_denied": ("payments", "bot", "ledger.create_payment", '{"amount": 900}'),
    "payments_read": ("payments", "bot", "ledger.get_balance", '{"id": "a/7"}'),
    "research_fallback": ("research", "research-1", "web.search", '{"q": "lamps", "limit": 50}'),
    "least_privilege_no_rule": ("least-privilege", "stranger", "local.shell", "{}"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_person_reads(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Word for word: ``OUTRIDER_UPDATE_GOLDEN=1`` writes it anew; read the difference before you keep it."""
    monkeypatch.delenv("LEDGER_TOKEN", raising=False)
    example, agent, tool, args = SHOWN[name]
    folder = str(EXAMPLES / example)
    assert main(["explain", "--agent", agent, "--tool", tool, "--args", args, "--policy", folder]) == 0
    shown = re.sub(r"\([0-9a-f]{12}\)", "(DIGEST)", capsys.readouterr().out)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("OUTRIDER_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text("utf-8")


def test_places_know_where_the_mode_stands() -> None:
    """Built in where no file says it."""
    assert Places({"one.yaml": ONE}).mode_at == BUILT_IN
