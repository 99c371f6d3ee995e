"""Conditions: what is found at load, what the engine must never see, and what evaluating costs."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.calls import Agent
from outrider.policy.conditions import (
    MAX_CHAIN,
    MAX_CHARACTERS,
    MAX_NESTING,
    Condition,
    ConditionError,
    Question,
    compile_condition,
)
from outrider.policy.rules import Facts, Rule, Rules


def problems(text: str) -> list[tuple[str, str]]:
    try:
        compile_condition(text)
    except ConditionError as error:
        return [(problem.code, problem.message) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("true", set()),
        ("args.amount > 500", {"args"}),
        ('agent.labels["team"] == "red" && tool != "x"', {"agent", "tool"}),
        ("args.xs.exists(x, x.price > 5)", {"args"}),
        ("args.xs.all(x, args.ys.exists(y, x == y))", {"args"}),
        ("args.xs.map(x, x > 1, x * 2).size() > 2", {"args"}),
        ('"args.foo(bar" == principal.name // run.nonsense', {"principal"}),
        ("type(args.n) == int && type(args.s) == string", {"args"}),
        ('args.s.matches(r"^\\d+$")', {"args"}),
        ("has(session.id) && run.id == session.id", {"session", "run"}),
        ('now - timestamp("2026-01-01T00:00:00Z") > duration("1h")', {"now"}),
        ("args.agent.naem == 1", {"args"}),  # below args anything goes
    ],
)
def test_the_names_of_a_condition_are_known(text: str, names: set[str]) -> None:
    """Only what a condition names is converted for it; names that a walk over a list binds are its own."""
    assert compile_condition(text).names == names


def test_everything_that_is_wrong_is_told_at_once() -> None:
    """Unknown names, unknown fields, unknown functions and broken regular expressions, together."""
    found = problems('arg.x > 1 && agent.nam == "a" && lower(tool) == "b" && tool.matches("(")')
    assert [code for code, _ in found] == ["E29", "E50", "E29", "E50"]


@pytest.mark.parametrize(
    "text",
    [
        "(" * (MAX_NESTING + 1) + "true" + ")" * (MAX_NESTING + 1),
        "[" * 5000 + "]" * 5000,
        "args.a.all(x, args.b.all(y, args.c.all(z, true)))",
        "args.a.map(x, args.b.map(y, args.c.filter(z, true)))",
        "args" + ".a" * (MAX_CHAIN + 1),
        "x" * (MAX_CHARACTERS + 1),
        "args.a[",
        "",
        "has(args)",
        "args.?x",
        'tool == "unclosed',
        "tool = 1",
    ],
)
def test_what_cannot_be_compiled_is_a_problem_and_not_a_crash(text: str) -> None:
    """Too deep, too long, not CEL: a sentence, before the engine could overflow its stack."""
    assert [code for code, _ in problems(text)] == ["E50"]


def test_brackets_inside_text_and_comments_do_not_count() -> None:
    """Only real nesting is bounded."""
    assert problems('tool == "' + "(" * 50 + '" // ' + "[" * 50) == []


@given(st.text(alphabet="()[]{}.,\"'\\ \nabxargs&|!<>=+-*/?:0123456789", max_size=200))
def test_no_text_can_crash_the_compiler(text: str) -> None:
    """Whatever a policy says, the answer is a condition or a problem."""
    try:
        compile_condition(text)
    except ConditionError as error:
        assert error.problems


def test_the_deepest_that_is_let_through_fits_a_small_stack() -> None:
    """Run in a process of its own, in a thread with 512 kB: longest and deepest of every kind of nesting."""
    program = f"""
import threading
from outrider.policy.conditions import compile_condition, ConditionError, Question
n, chars = {MAX_NESTING}, {MAX_CHARACTERS}
texts = ["(" * n + "1" + ")" * n + " == 1", "[" * n + "]" * n + " == []", "!" * 900 + "true", "-" * 900 + "1 == 1",
         "true" + " || true" * 240, "true ? 1 : " * 90 + "2 == 1", "args" + ".a" * {MAX_CHAIN} + " == 1",
         "args" + "[0]" * 600 + " == 1", "1" + "+1" * 450 + " == 1",
         "args.a.all(x, args.a.all(y, " + "(" * (n - 2) + "x == y" + ")" * n]
def work():
    for text in texts:
        assert len(text) <= chars, text[:20]
        try:
            condition = compile_condition(text)
        except ConditionError:
            continue
        Question(lambda name: {{"a": [1, 2]}}).ask(condition)
    print("alive")
threading.stack_size(512 * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-2000:]


def nested(levels: int, leaf: Any = 1) -> dict[str, Any]:
    value: dict[str, Any] = {"a": leaf}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("levels", [31, 32, 1000, 20_000])
def test_deeply_nested_arguments_never_reach_the_engine(levels: int) -> None:
    """The engine overflows the stack of the process on deep input; here it denies, without an attempt."""
    condition = compile_condition("args.a == 1")
    decision = Rules([Rule("d", "deny", ("*",), condition=condition), Rule("a", "allow", ("*",))]).decide(
        Facts("x.y", nested(levels), Agent())
    )
    if levels == 31:
        assert decision.effect == "allow"
    else:
        assert (decision.effect, decision.error) == ("deny", "args: the arguments are nested deeper than 32 levels")


def test_values_are_converted_once_and_only_when_named() -> None:
    """The costly part of a condition happens at most once for each fact of a call."""
    asked: list[str] = []

    def value_of(name: str) -> Any:
        asked.append(name)
        return {"x": 1} if name == "args" else "text"

    question = Question(value_of)
    for text in ("args.x == 1", "args.x > 0 && tool == 'text'", "args.x < 5"):
        assert question.ask(compile_condition(text)) == (True, "")
    assert asked == ["args", "tool"]


def test_a_panic_of_the_engine_is_an_error_and_an_interrupt_is_not_swallowed() -> None:
    """A guard that errs refuses; a person's Ctrl-C is none of its business."""

    class Panic(BaseException):
        pass

    class Program:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def execute(self, context: object) -> bool:
            raise self.error

    question = Question(lambda name: None)
    assert question.ask(Condition("x", frozenset(), Program(Panic()))) == (False, "the engine says Panic")
    with pytest.raises(KeyboardInterrupt):
        question.ask(Condition("x", frozenset(), Program(KeyboardInterrupt())))


def test_the_engine_is_loaded_without_its_command_line() -> None:
    """The sidecar carries no interactive shell: the package's own __init__ would import one."""
    program = (
        "import sys, outrider.policy.load\n"
        "found = {'prompt_toolkit', 'pygments', 'cel.cli'} & set(sys.modules)\n"
        "import cel\n"
        "assert cel.evaluate('1 + 1') == 2\n"
        "sys.exit(f'imported: {sorted(found)}' if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_now_is_a_timestamp_in_utc() -> None:
    """Hours and days can be asked, and compared with timestamps that are written out."""
    monday = datetime(2026, 11, 23, 11, 4, 5, tzinfo=UTC)
    known = Facts("x.y", {}, Agent(), now=monday.timestamp())
    for text in (
        "now.getHours() == 11 && now.getMinutes() == 4 && now.getDayOfWeek() == 1",
        'now == timestamp("2026-11-23T11:04:05Z")',
        'now + duration("1h") > timestamp("2026-11-23T12:04:04Z")',
    ):
        rules = Rules([Rule("a", "allow", ("*",), condition=compile_condition(text))])
        assert rules.decide(known).effect == "allow", text
