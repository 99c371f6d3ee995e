"""The demonstration tells the truth: a claim that is not borne out is found, and what is missing is said."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

import outrider.demo
from outrider.demo import tasks
from outrider.demo.measure import Ending, How, Pass
from outrider.demo.model import GAVE_UP, next_message
from outrider.demo.narrator import Narrator
from outrider.demo.summary import CLAIMS, Kill, Story, as_dict, check, rows
from outrider.ledger.verify import Report


def report(ok: bool = True) -> Report:
    return Report(ok, 0, None if ok else (1, "changed"), "0" * 64, "log", 0, 0, 0, 0, 0.0)


def measured(how: How, executed: dict[str, int], ran: tuple[str, ...] = ()) -> Pass:
    ends = {task.id: Ending(task.id, how, "", 0.1) for task in tasks.TASKS.values()}
    return Pass(ends, {"executed": executed, "refused_while_dead": 5}, ran)


def story_of_nothing() -> Story:
    """Nothing happened: no record, no breaker that moved, every write twice."""
    twice = dict.fromkeys(tasks.WRITES, 2)
    return Story(
        measured(How.CRASHED, twice),
        measured(How.CRASHED, twice, ("delete_customer",)),
        [],
        {},
        Kill({"calls": [], "counts": {}}),
        report(ok=False),
        report(),
        None,
    )


def test_no_claim_is_true_of_nothing() -> None:
    """Each claim needs something to have happened: of an empty run none is true, and none raises."""
    vacuous = {"what became of the interrupted function was learnt afterwards"}
    assert {claim.text for claim in check(story_of_nothing()) if claim.true} <= vacuous
    assert len(CLAIMS) > 20


def test_a_false_claim_makes_the_whole_false() -> None:
    """``ok`` is the conjunction of all claims, and the JSON form shows which one failed."""
    story = story_of_nothing()
    story.claims = check(story)
    told = as_dict(story)
    assert told["ok"] is False
    assert {entry["claim"] for entry in told["claims"]} == {text for text, _ in CLAIMS}


def test_the_table_is_counted() -> None:
    """Numbers come from the passes: repeats beyond the first, and writes that never happened."""
    one = measured(How.ANSWERED, {"charge 17": 3, "mail 17": 1})
    assert (one.writes_repeated, one.writes_lost) == (2, 1)
    story = story_of_nothing()
    shown = {what: (before, after) for what, before, after in rows(story)}
    assert shown["writes executed twice"] == ("3", "3")
    assert shown["customers deleted because a letter said so"] == ("0", "1")


def test_without_langgraph_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sentence, not a traceback, and exit code 1."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert outrider.demo.main() == 1
    told = capsys.readouterr().err
    assert "LangGraph" in told and "pip install 'outrider[demo]'" in told and "Traceback" not in told


def conversation(task: tasks.Task, *results: tuple[str, str]) -> list[Any]:
    messages: list[Any] = [HumanMessage(task.prompt)]
    for text, status in results:
        messages += [AIMessage("", tool_calls=[]), ToolMessage(text, tool_call_id="1", status=status)]
    return messages


def test_the_model_tries_a_write_again_once_and_then_gives_up() -> None:
    """As models do when they are told of an error, whatever it says."""
    first = next_message(conversation(tasks.MAIL))
    again = next_message(conversation(tasks.MAIL, ("broken", "error")))
    last = next_message(conversation(tasks.MAIL, ("broken", "error"), ("refused", "error")))
    assert [call["name"] for call in first.tool_calls] == [call["name"] for call in again.tool_calls] == ["mail_send"]
    assert last.text == GAVE_UP + "refused" and not last.tool_calls


def test_the_model_answers_with_what_the_last_tool_said() -> None:
    """After the steps of its task."""
    assert next_message(conversation(tasks.ORDER, ("shipped", "success"))).text == "shipped"


def test_a_denied_call_is_told_with_its_rule() -> None:
    """The line names the rule and says that nothing ran."""
    narrator = Narrator()
    call: dict[str, Any] = {"call_id": "c", "tool": "local.delete_customer", "agent": {"name": "desk"}}
    assert narrator.hear({"type": "call.received", **call}) is None
    line = narrator.hear({"type": "call.refused", **call, "code": "denied", "rule": "customers stay"})
    assert line is not None and line.agent == "desk" and "'customers stay'" in line.text and "nothing ran" in line.text


def test_retries_are_told_with_their_pauses() -> None:
    """The second attempt says how long after the first one's end it began."""
    narrator = Narrator()
    call: dict[str, Any] = {"call_id": "c", "tool": "orders.lookup", "agent": {"name": "desk"}}
    end: dict[str, Any] = {"type": "attempt.finished", **call, "timing": {"took_ms": 250.0}}
    narrator.hear({"type": "call.received", **call})
    first = narrator.hear({**end, "ts": "2026-11-22T16:00:00.000000Z", "outcome": "unknown", "failure": "reset"})
    second = narrator.hear({**end, "ts": "2026-11-22T16:00:01.250000Z", "outcome": "ok"})
    assert first is not None and first.text == "attempt 1: the connection broke, no answer"
    assert second is not None and second.text == "attempt 2, 1.00 s later: answered"
