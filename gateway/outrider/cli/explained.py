"""An explanation for people: one sentence first, then what led to it."""

from __future__ import annotations

import json
from typing import Any

from outrider.cli.plain import safe, short
from outrider.cli.shown import say, table

Answer = dict[str, Any]

MAX_RULES = 30
"""Rules shown that do not speak of the call; --json has all."""


def show(answer: Answer) -> None:
    """Everything of it, in sections."""
    say(_verdict(answer))
    policy = answer["policy"]
    say(f"Policy '{policy['name']}' ({policy['digest'][:12]}), mode {policy['mode']} ({policy['mode_at']}).")
    if answer.get("args_known") is False:
        say("The ledger does not hold the arguments any more, or never did: conditions over args are asked of none.")
    _rules(answer["rules"])
    if "plan" in answer:
        _values("How it is called", answer["plan"])
        _values(f"Fault domain, shared by {safe(answer['domain']['shared_by'])}", answer["domain"]["values"])
        _values(f"Upstream {answer['upstream']['name']}", answer["upstream"]["values"])
        _request(answer)
    if "story" in answer:
        _story(answer["story"])


def _verdict(answer: Answer) -> str:
    tool, agent, decision = safe(answer["tool"]), safe(answer["agent"]), answer["decision"]
    said = _decision(decision)
    if answer["refused"] == "unknown_tool":
        return f"{tool} does not exist in this policy: no upstream of that name, or no such operation (unknown_tool)."
    if answer["refused"] == "invalid_request":
        return f"{tool} by {agent} is refused (invalid_request): its arguments are more than 'limits' allows."
    if answer["unexpected"] and answer["refused"]:
        return f"{tool} by {agent} is refused ({answer['refused']}): {safe(answer['unexpected'])}"
    if answer["refused"]:
        return f"{tool} by {agent} is refused ({answer['refused']}): {said}."
    if decision["effect"] != "allow" or answer["unexpected"]:
        why = safe(answer["unexpected"] or f"{said}.")
        return f"{tool} by {agent} passes, because the policy only observes. Enforced, it would be refused: {why}"
    return f"{tool} by {agent} passes: {said}."


def _decision(decision: Answer) -> str:
    if decision["rule"] is None:
        return "no rule allows it"
    told = {"allow": "allows it", "deny": "denies it", "require_approval": "asks a person first"}[decision["effect"]]
    why = decision["error"] or decision["reason"]
    return f"the rule '{safe(decision['rule'])}' ({decision['at']}) {told}" + (f": {safe(why)}" if why else "")


def _rules(rules: list[Answer]) -> None:
    near = [rule for rule in rules if rule["tool_pattern"]]
    shown = near[:MAX_RULES]
    say("\nRules")
    rows = [(rule["name"], rule["then"], rule["why"], _condition(rule), rule["at"]) for rule in shown]
    table(("rule", "then", "what it says of this call", "when", "from"), rows, "None speaks of this tool.")
    if len(near) > len(shown):
        say(f"and {len(near) - len(shown)} more that speak of this tool (--json shows them).")
    if others := len(rules) - len(near):
        say(f"{others} other rule(s) speak of other tools.")


def _condition(rule: Answer) -> str:
    if rule["when"] is None:
        return ""
    result = "" if rule["result"] is None else f" → {str(rule['result']).lower()}"
    return f"{short(rule['when'], 80)}{result}"


def _values(title: str, values: list[Answer]) -> None:
    if not values:
        return
    say(f"\n{title}")
    rows = [(value["key"], _shown(value["value"]), value["at"], _over(value)) for value in values]
    table(("key", "value", "from", "instead of"), rows, "")


def _over(value: Answer) -> str:
    return ", ".join(f"{_shown(other['value'])} ({other['at']})" for other in value["over"])


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return ", ".join(value) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _request(answer: Answer) -> None:
    request = answer["request"]
    say("\nRequest")
    if request is None:
        say(f"None: '{safe(answer['tool'].partition('.')[2])}' runs in the agent's own process.")
    elif "error" in request:
        say(f"None can be made: {safe(request['error'])}.")
    else:
        say(f"{request['method']} {safe(request['url'])}")
        for name, value in request["headers"].items():
            say(f"{safe(name)}: {safe(value)}")
        if request["body"] is not None:
            say(f"\n{safe(request['body'])}")


def _story(records: list[Answer]) -> None:
    say("\nWhat became of it")
    rows = [(record["ts"][11:23], record["type"], _happened(record)) for record in records]
    table(("time", "record", "what"), rows, "Nothing is recorded yet.")


def _happened(record: Answer) -> str:
    words = [str(record[key]) for key in ("decision", "rule", "outcome", "code", "failure") if record.get(key)]
    took = [f"{ms:g} ms" for ms in record.get("timing", {}).values()]
    detail = [short(record["detail"], 100)] if record.get("detail") else []
    return ", ".join([*words, *took, *detail])
