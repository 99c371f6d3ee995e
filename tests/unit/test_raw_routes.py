"""From a raw request back to the declared tool and its arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.calls import Agent, Effect
from outrider.explain.rules import heard
from outrider.policy.load import Policy, check_texts
from outrider.policy.plans import HttpTemplate
from outrider.policy.rules import Facts
from outrider.raw.arguments import BadArguments, of_request, of_tool
from outrider.raw.routes import Found, Routes, Unclear
from outrider.raw.target import read_target
from outrider.upstreams.template import render

HEAD = "apiVersion: outrider.dev/v1alpha1\nkind: Policy\n"
TOOLS: list[dict[str, Any]] = [
    {"match": "led.pay", "http": {"method": "POST", "path": "/payments"}},
    {"match": "led.get", "effect": "read", "http": {"method": "GET", "path": "/accounts/{args.id}"}},
    {"match": "led.me", "effect": "read", "http": {"method": "GET", "path": "/accounts/me"}},
    {"match": "led.file", "effect": "read", "http": {"method": "GET", "path": "/accounts/{args.name}.pdf"}},
    {"match": "led.one", "http": {"method": "GET", "path": "/same/{args.a}"}},
    {"match": "led.two", "http": {"method": "GET", "path": "/same/{args.b}"}},
    {"match": "led.any_*", "http": {"method": "GET", "path": "/any/{args.id}"}},
    {"match": "led.list_*", "http": {"method": "GET"}},
    {"match": "led.span", "http": {"method": "GET", "path": "/span/{args.from}-{args.to}"}},
    {
        "match": "led.find",
        "http": {"method": "GET", "path": "/find", "query": {"since": "from:{args.at}", "v": "2"}},
    },
    {
        "match": "led.send",
        "http": {
            "method": "POST",
            "path": "/send",
            "headers": {"X-Whose": "{args.whose}"},
            "body": {
                "to": {"iban": "{args.iban}"},
                "text": "for {args.what}",
                "kind": "sepa",
                "all": ["{args.one}", 2],
            },
        },
    },
]  # fmt: skip


def policy(tools: list[dict[str, Any]] = TOOLS, rules: list[dict[str, Any]] | None = None) -> Policy:
    sections = {
        "upstreams": {"led": {"http": {"url": "http://127.0.0.1:1"}}},
        "tools": tools,
        "rules": rules or [{"name": "all", "tools": ["*"], "then": "allow"}],
    }
    raw = HEAD + "".join(f"{key}: {json.dumps(value)}\n" for key, value in sections.items())
    made, faults = check_texts({"policy.yaml": raw.encode()}, Path())
    assert made is not None, faults
    return made


ROUTES = Routes(policy(), "led")


def find(method: str, path: str) -> Found | None:
    return ROUTES.find(method, read_target("/http/led" + path))


@pytest.mark.parametrize(
    ("method", "path", "tool"),
    [
        ("POST", "/payments", "led.pay"),
        ("POST", "/payments/", "led.pay"),
        ("POST", "/%70ayments", "led.pay"),
        ("GET", "/accounts/42", "led.get"),
        ("HEAD", "/accounts/42", "led.get"),
        ("GET", "/accounts/me", "led.me"),
        ("GET", "/accounts/a.pdf", "led.file"),
        ("POST", "/refund", "led.refund"),
        ("GET", "/list_all", "led.list_all"),
        ("GET", "/payments", None),
        ("PUT", "/payments", None),
        ("GET", "/refund", None),
        ("GET", "/accounts/42/balance", None),
        ("POST", "/http", None),
        ("GET", "/", None),
        ("OPTIONS", "/payments", None),
    ],
)
def test_method_and_path_are_the_tool_whose_template_would_make_them(method: str, path: str, tool: str | None) -> None:
    """The most specific one; what nobody declared is nobody's."""
    found = find(method, path)
    assert (found.tool if found else None) == tool


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/same/1"), ("GET", "/any/1"), ("GET", "/Accounts/42"), ("POST", "/PAYMENTS"), ("GET", "/span/1-2-3")],
)
def test_where_nobody_can_say_which_tool_it_is_it_is_refused(method: str, path: str) -> None:
    """Two of the same path, a prefix's path, a spelling that some servers would take for another, several values in one
    segment."""
    with pytest.raises(Unclear):
        find(method, path)


def arguments(
    method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, kind: str = "application/json"
) -> Any:
    target = read_target("/http/led" + path)
    found = ROUTES.find(method, target)
    assert found is not None
    sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    return of_tool(found, target, headers or {}, sent, kind)


def test_arguments_come_from_path_query_headers_and_body() -> None:
    """The very names that the template has."""
    assert arguments("GET", "/accounts/a%20b?x=1&y=&x=2") == {"id": "a b", "x": ["1", "2"], "y": ""}
    assert arguments("POST", "/payments?dry=1", {"amount": 5, "to": {"iban": "x"}}) == {
        "dry": "1", "amount": 5, "to": {"iban": "x"},
    }  # fmt: skip
    assert arguments("POST", "/payments", b"amount=5&to=x", kind="application/x-www-form-urlencoded") == {
        "amount": "5", "to": "x",
    }  # fmt: skip
    assert arguments("GET", "/find?since=from:2026&v=2") == {"at": "2026"}
    body = {"to": {"iban": "DE1"}, "text": "for rent", "kind": "sepa", "all": [7, 2], "more": True}
    assert arguments("POST", "/send", body, {"X-Whose": "me"}) == {
        "whose": "me", "iban": "DE1", "what": "rent", "one": 7, "more": True,
    }  # fmt: skip
    assert arguments("POST", "/payments", [1, 2]) == {"body": [1, 2]}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/accounts/42?id=43", None),
        ("POST", "/payments?amount=5", {"amount": 6}),
        ("POST", "/payments", b'{"amount": 5, "amount": 6}'),
        ("POST", "/payments", b'{"amount": 5, "\\u0061mount": 6}'),
        ("POST", "/payments", b'{"amount": '),
        ("POST", "/payments", b"\xff\xfe{\x00}\x00"),
        ("POST", "/payments", b"[" * 100_000),
        ("GET", "/find?since=2026", None),
        ("GET", "/find?since=from:1&since=from:2", None),
        ("GET", "/accounts/1?x=%ff", None),
        ("POST", "/send", {"kind": "other"}),
        ("POST", "/send", {"to": {"iban": "x", "more": 1}}),
        ("POST", "/send", {"to": "x"}),
        ("POST", "/send", {"text": "rent"}),
    ],
)
def test_what_could_be_read_in_two_ways_has_no_arguments(method: str, path: str, body: Any) -> None:
    """An argument twice, a key twice, a body that the template would not make."""
    with pytest.raises(BadArguments):
        arguments(method, path, body)


def test_the_same_argument_twice_is_one() -> None:
    """PUT /things/42 {"id": 42} is common, and the body's type says more."""
    found = Found("led.x", HttpTemplate("PUT", "/things/{args.id}"), ((("id",), "42"),))
    target = read_target("/http/led/things/42?id=42")
    assert of_tool(found, target, {}, b'{"id": 42}', "application/json") == {"id": 42}


def test_what_is_no_tool_says_method_path_and_query() -> None:
    """The path as it is sent."""
    target = read_target("/http/led/a%62/%e9?x=1".replace("%e9", "%C3%A9"))
    assert of_request("PUT", target, b'{"a": 1}', "application/json; charset=utf-8") == {
        "method": "PUT", "path": "/ab/%C3%A9", "query": {"x": "1"}, "body": {"a": 1},
    }  # fmt: skip
    assert set(of_request("PUT", target, b"x", "text/plain")) == {"method", "path", "query", "body_sha256"}


SAFE_TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\;%", exclude_categories=("Cc", "Cs")), min_size=1
)


@given(SAFE_TEXT.filter(lambda text: text not in {".", ".."}), st.text(max_size=20), st.integers(-5, 5))
def test_what_a_template_makes_is_read_back_as_the_same_call(id_: str, at: str, n: int) -> None:
    """By name or by path: the rules see the same tool and the same arguments."""
    args = {"id": id_, "at": at, "n": str(n)}
    template = policy_template()
    sent = render(template, "get", args)
    try:
        target = read_target("/http/led" + sent.path)
    except ValueError:
        return  # it holds what looks like something else, and is refused
    found = ROUTES.find("GET", target)
    assert found is not None
    if found.tool == "led.get":
        assert of_tool(found, target, {}, None, "") == args


def policy_template() -> HttpTemplate:
    found = find("GET", "/accounts/42")
    assert found is not None
    return found.template


# ── what only its very name allows ───────────────────────────────────────────────────────────────────────────────


def effect(rules: list[dict[str, Any]], tool: str = "led.http") -> str:
    return policy(rules=rules).rules.decide(Facts(tool, {}, Agent())).effect


ALL = {"name": "all", "tools": ["*"], "then": "allow"}
OF_LED = {"name": "of led", "tools": ["led.*", "led.htt*"], "then": "allow"}
EXACT = {"name": "exact", "tools": ["led.http"], "then": "allow"}


def test_no_pattern_allows_what_is_no_tool() -> None:
    """Only a rule with its very name does; patterns still deny, and still ask a person."""
    assert effect([ALL, OF_LED]) == "no_rule"
    assert effect([ALL, EXACT]) == "allow"
    assert effect([EXACT, {"name": "no", "tools": ["led.*"], "then": "deny"}]) == "deny"
    assert effect([EXACT, {"name": "ask", "tools": ["*"], "then": "require_approval"}]) == "require_approval"
    assert effect([{"name": "ask", "tools": ["*"], "then": "require_approval"}]) == "no_rule"
    assert (
        effect([{**EXACT, "mode": "observe"}, {"name": "ask", "tools": ["*"], "then": "require_approval"}]) == "no_rule"
    )
    assert effect([ALL], "led.https") == effect([ALL], "local.http") == "allow"


def test_the_effect_is_the_methods_unless_the_policy_says_another() -> None:
    """An entry of `tools` says it; `defaults` do not, they know nothing of methods."""
    made = policy([{"match": "led.http", "timeouts": {"idle": "5s"}}])
    plan = made.plan("led.http", Effect.READ)
    assert plan is not None and plan.effect is Effect.READ and plan.timeouts.idle_s == 5
    said = policy([{"match": "led.*", "effect": "idempotent"}]).plan("led.http", Effect.READ)
    assert said is not None and said.effect is Effect.IDEMPOTENT
    plain = made.plan("led.http")
    assert plain is not None and plain.effect is Effect.WRITE


def test_the_policy_says_what_becomes_of_authorization() -> None:
    """What contradicts itself is a fault with its line."""

    def faults(http: str) -> list[str]:
        raw = HEAD + f"upstreams:\n  led:\n    http: {http}\n" + 'rules: [{name: all, tools: ["*"], then: allow}]\n'
        return [
            fault.code
            for fault in check_texts({"p.yaml": raw.encode()}, Path(), env={"T": "x"})[1]
            if fault.severity == "error"
        ]

    assert faults("{url: 'http://h', authorization: forward}") == []
    assert faults("{url: 'http://h', authorization: replace}") == ["E53"]
    assert faults("{url: 'http://h', authorization: forward, headers: {authorization: '{env:T}'}}") == ["E53"]
    assert faults("{url: 'http://h', authorization: replace, headers: {Authorization: '{env:T}'}}") == []
    assert faults("{url: 'http://h', authorization: keep}") == ["E44"]


def test_explain_says_that_a_pattern_does_not_speak_of_it() -> None:
    """Whoever wonders why `*` does not help is not told that it matches."""
    rules = policy(rules=[ALL, {"name": "no", "tools": ["other.*"], "then": "deny"}]).rules
    decision, said = heard(rules, Facts("led.http", {}, Agent()))
    assert decision.effect == "no_rule" and [one.why for one in said] == ["speaks of other tools"] * 2
