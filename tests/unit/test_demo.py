"""The demonstration tells the truth: a claim that is not borne out is found, and what is missing is said."""

from __future__ import annotations

import importlib.util
from collections import Counter
from importlib import metadata
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

import outrider.demo
from outrider.cli.fault import CliError
from outrider.demo import tasks
from outrider.demo.clerks import choice, compare, duties
from outrider.demo.clerks.chorus import Chorus
from outrider.demo.clerks.compare import Comparison
from outrider.demo.clerks.office import CLERKS, FRAMEWORKS, Figures
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


# ── the clerks: the same in every framework ──────────────────────────────────────────────────────────────────────


EVERYBODY = tuple(clerk for clerks in CLERKS.values() for clerk in clerks)
AS_TOLD = {
    duties.PARCEL: (["not_executed", "not_executed", "ok"], How.ANSWERED),
    duties.WEIGHT: (["not_executed"] * 3, How.GAVE_UP),
    duties.PAYMENT: (["unknown"], How.GAVE_UP),
    duties.REMINDERS: (["ok", "unknown"], How.STOPPED),
}


def figures_as_told() -> Figures:
    ends = {
        (clerk, duty.id): Ending(f"{clerk}/{duty.id}", how, "", 0.1)
        for clerk in EVERYBODY
        for duty, (_, how) in AS_TOLD.items()
    }
    executed = {(clerk, duty.tool): len(fates) for clerk in EVERYBODY for duty, (fates, _) in AS_TOLD.items()}
    return Figures(ends, Counter(executed))


def records_as_told() -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for clerk in EVERYBODY:
        for duty, (fates, _) in AS_TOLD.items():
            agent = {"name": clerk, "framework": FRAMEWORKS[clerk]}
            call = {"call_id": f"{clerk}/{duty.id}", "tool": f"local.{duty.tool}", "agent": agent}
            records.append({"type": "call.received", **call})
            for fate in fates:
                records.append({"type": "attempt.started", **call})
                records.append({"type": "attempt.finished", "outcome": fate, **call})
    records.append({"type": "kill.engaged", "data": {"scope": compare.SCOPE}})
    return [{"seq": seq, **record} for seq, record in enumerate(records, 1)]


def comparison_as_told() -> Comparison:
    named = [{"call_id": f"{clerk}/{duties.REMINDERS.id}"} for clerk in EVERYBODY]
    receipt = {"calls": named, "counts": {"unknown": len(named)}}
    return Comparison(EVERYBODY, figures_as_told(), figures_as_told(), receipt, figures_as_told())


def false_claims(comparison: Comparison, records: list[dict[str, Any]]) -> set[str]:
    story = story_of_nothing()
    story.clerks, story.records = comparison, list(records)
    told = {text for text, _ in compare.CLAIMS}
    return {claim.text for claim in check(story) if not claim.true} & told


def test_the_frameworks_claims_hold_of_what_should_happen() -> None:
    """Or the tests below would prove nothing."""
    assert false_claims(comparison_as_told(), records_as_told()) == set()


def test_no_claim_about_the_frameworks_is_true_of_nothing() -> None:
    """An empty ledger and no executions make every one of them false."""
    nothing = Figures({}, Counter())
    comparison = Comparison(EVERYBODY, nothing, nothing, {"calls": [], "counts": {}}, nothing)
    assert len(false_claims(comparison, [])) == len(compare.CLAIMS)


@pytest.mark.parametrize("clerk", EVERYBODY)
@pytest.mark.parametrize(
    ("duty", "executed", "word"),
    [
        (duties.PARCEL, 4, "a third time"),
        (duties.WEIGHT, 6, "as the policy says"),
        (duties.PAYMENT, 2, "made once"),
        (duties.REMINDERS, 3, "nothing of theirs began"),
    ],
)
def test_one_execution_more_than_told_is_found(clerk: str, duty: duties.Duty, executed: int, word: str) -> None:
    """By one framework's function, whatever the ledger says."""
    comparison = comparison_as_told()
    counts = Counter({**comparison.governed.executed, (clerk, duty.tool): executed})
    comparison.governed = Figures(comparison.governed.endings, counts)
    (claim,) = false_claims(comparison, records_as_told())
    assert word in claim


def test_a_framework_that_is_not_stopped_is_found() -> None:
    """One of them went on and was content."""
    comparison = comparison_as_told()
    ends = dict(comparison.governed.endings)
    ends["clerk_autogen", duties.REMINDERS.id] = Ending("", How.ANSWERED, "", 0.1)
    comparison.governed = Figures(ends, comparison.governed.executed)
    assert false_claims(comparison, records_as_told()) == {"one kill ended the runs of all frameworks"}


def test_an_attempt_after_the_kill_is_found_unless_its_receipt_names_it() -> None:
    """What began while the kill was being engaged is in the receipt; anything else began after it."""
    agent = {"name": "clerk_react", "framework": "crewai"}
    late = {"type": "attempt.started", "seq": 1000, "tool": "local.remind", "agent": agent}
    named = {**late, "call_id": f"clerk_react/{duties.REMINDERS.id}"}
    assert false_claims(comparison_as_told(), [*records_as_told(), named]) == set()
    (claim,) = false_claims(comparison_as_told(), [*records_as_told(), {**late, "call_id": "another"}])
    assert "nothing of theirs began" in claim


def test_the_frameworks_table_has_both_figures_of_each() -> None:
    """The policy's word first, then without and with, and whether the person got an answer."""
    comparison = comparison_as_told()
    alone = Counter({**comparison.without.executed, ("clerk_react", "pay_back"): 6})
    comparison.without = Figures(comparison.without.endings, alone)
    shown = {name: cells for name, *cells in compare.rows(comparison)}
    assert shown["what the policy says"] == ["3", "3", "1"]
    assert shown["CrewAI, ReAct"] == ["3 ✓ → 3 ✓", "3 ✗ → 3 ✗", "6 ✗ → 1 ✗"]
    told = compare.as_dict(comparison)["clerk_react"]
    assert told["without_outrider"]["answer_lost"] == {"executed": 6, "ended": "gave_up"}
    assert told["with_outrider"]["endless"] == {"executed": 2, "ended": "stopped"}


def test_the_clerks_model_never_repeats_a_failed_call() -> None:
    """So that every repetition is the framework's or the policy's."""
    script = duties.Script(duties.WEIGHT)
    assert script.next("What does parcel 5 weigh?") == {"number": 5}
    assert script.next("it is off\nFinal Answer: the framework's own words") == duties.GAVE_UP + "it is off"
    endless = duties.Script(duties.REMINDERS)
    assert [endless.next("") for _ in range(3)] == [{"number": 1}, {"number": 2}, {"number": 3}]


def test_a_call_of_many_is_one_line_with_a_mark_for_each_attempt() -> None:
    """When it ends; before that there is nothing to show."""
    chorus = Chorus()
    call: dict[str, Any] = {"call_id": "c", "tool": "local.weigh_parcel", "agent": {"name": "clerk_react"}}
    attempt = {"type": "attempt.finished", **call, "outcome": "not_executed", "failure": "connect"}
    assert [chorus.hear({"type": "call.received", **call}), chorus.hear(attempt), chorus.hear(attempt)] == [None] * 3
    line = chorus.hear({"type": "call.finished", **call, "outcome": "not_executed", "code": "upstream_failed"})
    assert line is not None and (line.agent, line.marks) == ("clerk_react", ("bad", "bad"))
    assert line.text == "could not connect; the model is told"


# ── which frameworks ─────────────────────────────────────────────────────────────────────────────────────────────


def with_only(monkeypatch: pytest.MonkeyPatch, *installed: str, **others: str) -> None:
    """An environment with LangGraph, these packages as they are, and others in these versions."""
    real = metadata.version

    def version(package: str) -> str:
        if package in others:
            return others[package]
        if package in {"langgraph", "langchain-core", *installed}:
            return real(package)
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)


def test_all_that_is_installed_takes_part() -> None:
    """Without being asked, and nothing is said of it."""
    chosen = choice.choose("")
    assert chosen.playing == ("langgraph", "crewai", "autogen") and chosen.together and chosen.hint == ""


def test_what_is_not_installed_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that brings it; the rest is shown."""
    with_only(monkeypatch)
    chosen = choice.choose("")
    assert chosen.playing == ("langgraph",) and not chosen.together
    assert "CrewAI (not installed) and AutoGen (not installed)" in chosen.hint
    assert 'pip install "outrider[crewai,autogen]"' in chosen.hint and "\n" not in chosen.hint


def test_a_version_that_the_adapter_does_not_know_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And said to be that."""
    with_only(monkeypatch, "autogen-core", "autogen-agentchat", "autogen-ext", crewai="0.50.0")
    chosen = choice.choose("")
    assert chosen.playing == ("langgraph", "autogen")
    assert "crewai 0.50.0 is not supported" in dict(chosen.left_out)["crewai"]


def test_what_was_asked_for_and_is_not_there_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a demonstration of something else."""
    with_only(monkeypatch, "crewai")
    assert choice.choose("crewai").playing == ("langgraph", "crewai")
    for asked in ("autogen", "all", "crewai, autogen"):
        with pytest.raises(CliError) as caught:
            choice.choose(asked)
        assert "AutoGen (not installed)" in caught.value.what and caught.value.exit_code == 1
        assert 'pip install "outrider[autogen]"' in caught.value.fix


@pytest.mark.parametrize("asked", ["langchain", "crewai,langchain", "langchain,,", ","])
def test_a_framework_that_nobody_knows_is_wrong_usage(asked: str) -> None:
    """Exit code 2, and the names that there are."""
    with pytest.raises(CliError) as caught:
        choice.choose(asked)
    assert caught.value.exit_code == 2 and "langgraph, crewai, autogen" in caught.value.fix


def test_langgraph_can_be_shown_alone() -> None:
    """Where all are installed, and without a word about the others."""
    assert choice.choose("LangGraph") == choice.Choice(("langgraph",))
    assert choice.choose("all").playing == choice.choose("autogen,crewai").playing == ("langgraph", "crewai", "autogen")
