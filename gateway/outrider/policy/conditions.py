"""Conditions: CEL, compiled at load, evaluated with the facts of one call.

The engine is the Rust one (``common-expression-language``). What it does that matters here:
- converting values costs far more than evaluating (20 to 50 µs against 1), so a call's facts are converted lazily, only
  the variables that a condition names, and once for all conditions of that call;
- it crashes the process on input or expressions that nest too deep, so both are bounded before it sees them;
- an absent key, or values of different types compared, is an error, and ``error || true`` is still true;
- it returns whatever the expression yields: only ``is True`` counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from outrider.policy import engine
from outrider.policy.faults import nearest
from outrider.policy.guard import guard_condition

MAX_CHARACTERS = 2000
MAX_NESTING = 16
"""The engine's parser overflows a 512 kB stack at 128 brackets, and refuses more than about 100 by itself."""
MAX_CHAIN = 64
"""Keys in a row, ``a.b.c``: 900 overflow the same stack."""
MAX_WALKS = 2
"""Two nested walks over lists of 256 take 23 ms; three would take seconds."""

NAMES = ("tool", "args", "agent", "run", "session", "principal", "now")
"""What a condition may ask about. ``now`` is a CEL timestamp in UTC."""
_FIELDS = {
    "agent": ("name", "framework", "labels", "owner"),
    "run": ("id",),
    "session": ("id",),
    "principal": ("name", "on_behalf_of"),
}
_TYPES = frozenset({"int", "uint", "double", "string", "bytes", "bool", "list", "map", "null_type", "type"})
_FUNCTIONS = frozenset(
    {
        "all", "exists", "exists_one", "existsOne", "filter", "map", "has", "size", "contains", "startsWith",
        "endsWith", "matches", "int", "uint", "double", "string", "bytes", "dyn", "type", "timestamp", "duration",
        "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfYear", "getDayOfWeek", "getHours", "getMinutes",
        "getSeconds", "getMilliseconds",
    }
)  # fmt: skip
"""What the engine really has; another name would only fail when the rule is asked."""

_STRING = re.compile(r"""[rR]?("{3}(?s:.*?)"{3}|'{3}(?s:.*?)'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|//[^\n]*""")
_LONG_CHAIN = re.compile(rf"(?:\.\s*\w+\s*){{{MAX_CHAIN + 1}}}")
_WALK = re.compile(r"\.\s*(?:all|exists|exists_one|existsOne|map|filter)\s*\(")
_WALK_NAME = re.compile(_WALK.pattern + r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*,")
_FIELD = re.compile(r"(?<![.\w])(agent|run|session|principal)\s*\.\s*([A-Za-z_][A-Za-z0-9_]*)")
_WHOLE = re.compile(r"(?<![.\w])principal\b(?!\s*[.\[])")
_LITERAL_REGEX = re.compile(r"\bmatches\s*\(\s*(" + _STRING.pattern.partition("|//")[0] + r")\s*\)")


class Problem(NamedTuple):
    """One thing wrong with a condition. ``code`` is E29 for an unknown name, E50 for everything else."""

    code: str
    message: str
    fix: str


class ConditionError(ValueError):
    """A condition that cannot be used, with everything that is wrong with it."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(" ".join(problem.message for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition. ``names``: the variables it asks about."""

    text: str
    names: frozenset[str]
    program: Any


def compile_condition(text: str) -> Condition:
    """Raises ConditionError with everything that is wrong."""
    bare = _STRING.sub('""', text)
    program = _parsed(text, bare)
    references = program.references()
    bound = set(_WALK_NAME.findall(bare))
    names = frozenset(references["variables"]) - bound - _TYPES
    functions = set(references["functions"]) - bound
    problems = (*_names(names), *_functions(functions), *_fields(bare, bound), *_whole(bare, bound), *_regexes(text))
    if problems:
        raise ConditionError(*problems)
    return Condition(text, names, program)


def _parsed(text: str, bare: str) -> Any:
    """The engine's program, once the text is known not to overflow it."""
    if len(text) > MAX_CHARACTERS:
        raise _too("has", f"more than {MAX_CHARACTERS} characters", "make several rules of it.")
    deepest, walks = _nesting(bare)
    if _LONG_CHAIN.search(bare):
        raise _too("asks", f"deeper than {MAX_CHAIN} keys", "arguments never nest so deep.")
    if deepest > MAX_NESTING:
        raise _too("nests", f"brackets deeper than {MAX_NESTING}", "make it flatter.")
    if walks > MAX_WALKS:
        fix = "each walk multiplies the time by the length of a list; make it flatter."
        raise _too("puts", f"more than {MAX_WALKS} of all, exists, map and filter into each other", fix)
    try:
        return engine.compile(text)
    except BaseException as error:
        _let_go(error)
        fix = "mend the expression; docs/policy.md has examples."
        raise ConditionError(Problem("E50", f"this is not CEL: {_syntax(error)}.", fix)) from None


def _too(verb: str, much: str, fix: str) -> ConditionError:
    return ConditionError(Problem("E50", f"the condition {verb} {much}.", fix))


def _nesting(bare: str) -> tuple[int, int]:
    """How deep brackets nest, and how deep walks over lists do."""
    heads = {found.end() - 1 for found in _WALK.finditer(bare)}
    deepest = walks = 0
    opened: list[int] = []  # for each open bracket, how many walks it is inside of
    for position, character in enumerate(bare):
        if character in "([{":
            opened.append((opened[-1] if opened else 0) + (position in heads))
            deepest, walks = max(deepest, len(opened)), max(walks, opened[-1])
        elif character in ")]}" and opened:
            opened.pop()
    return deepest, walks


def _names(names: Iterable[str]) -> Iterator[Problem]:
    for name in sorted(names):
        if name not in NAMES:
            fix = _meant(name, NAMES, "use one of these; what a tool is given is below args.")
            yield Problem("E29", f"unknown name '{name}'; available: {', '.join(NAMES)}.", fix)


def _functions(functions: Iterable[str]) -> Iterator[Problem]:
    for name in sorted(functions):
        if name[0].isalpha() and name not in _FUNCTIONS:
            fix = _meant(name, _FUNCTIONS, f"available: {', '.join(sorted(_FUNCTIONS))}.")
            yield Problem("E50", f"unknown function '{name}'.", fix)


def _fields(bare: str, bound: set[str]) -> Iterator[Problem]:
    for root, name in sorted(set(_FIELD.findall(bare))):
        if root not in bound and name not in _FIELDS[root]:
            known = ", ".join(f"{root}.{field}" for field in _FIELDS[root])
            fix = _meant(f"{root}.{name}", known.split(", "), "use one of these.")
            yield Problem("E29", f"unknown name '{root}.{name}'; available: {known}.", fix)


def _whole(bare: str, bound: set[str]) -> Iterator[Problem]:
    """A principal is not the text that it once was; compared with one it would always deny."""
    if "principal" not in bound and _WHOLE.search(bare):
        yield Problem("E29", "principal is not a text.", "write principal.name or principal.on_behalf_of.")


def _regexes(text: str) -> Iterator[Problem]:
    """The engine compiles a regular expression only when it is asked; one that is written out is tried here."""
    for found in _LITERAL_REGEX.finditer(text):
        try:
            engine.compile(f'"".matches({found[1]})').execute({})
        except BaseException as error:
            _let_go(error)
            fix = "mend it; the syntax is RE2's: no look-around, no back-references."
            yield Problem("E50", f"{found[1][:80]} is not a regular expression.", fix)


def _meant(name: str, known: Iterable[str], otherwise: str) -> str:
    near = nearest(name, known, 0.6)
    return f"did you mean '{near}'?" if near else otherwise


def _syntax(error: BaseException) -> str:
    """The engine's first complaint, without its drawing of the text."""
    found = re.search(r"ERROR: <input>:(\d+):(\d+): (.*)", str(error))
    if not found:
        return "it cannot be parsed"
    line, column, said = found.groups()
    said = re.sub(r" expecting .*", "", said.removeprefix("Syntax error: ")).replace("input '<EOF>'", "end")[:160]
    return f"at {'' if line == '1' else f'line {line}, '}column {column}: {said}"


def _let_go(error: BaseException) -> None:
    """Raise what is none of a guard's business. A panic of the engine is a BaseException, and is a refusal."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error


# ── evaluation ───────────────────────────────────────────────────────────────────────────────────────────────────


class Question:
    """What conditions may ask about one call. ``value_of`` gives the value of a name; it is asked, and its answer is
    converted, when the first condition names it, once for the whole call."""

    __slots__ = ("_context", "_value_of", "_wrong")

    def __init__(self, value_of: Callable[[str], Any]) -> None:
        self._value_of = value_of
        self._context: Any = None
        self._wrong: dict[str, str] = {}  # of each name that was asked for: why it cannot be had, or nothing

    def ask(self, condition: Condition) -> tuple[bool, str]:
        """Whether the condition holds, and why it could not be evaluated (empty where it could)."""
        try:
            wrong = self._provide(condition.names)
            if wrong:
                return False, wrong
            result = condition.program.execute(self._context)
        except BaseException as error:
            _let_go(error)
            return False, _why(error, condition.text)
        if result is True:
            return True, ""
        return False, "" if result is False else f"it yields {type(result).__name__}, not true or false"

    def _provide(self, names: Iterable[str]) -> str:
        if self._context is None:
            self._context = engine.Context()
        for name in names:
            if name not in self._wrong:
                self._wrong[name] = self._convert(name)
            if self._wrong[name]:
                return self._wrong[name]
        return ""

    def _convert(self, name: str) -> str:
        value = self._value_of(name)
        wrong = _unfit(value)
        if wrong is not None:
            return f"{name}: {wrong}"
        self._context.add_variable(name, value)
        return ""


def _unfit(value: Any) -> str | None:
    """Why the engine must not see a value, None where it may."""
    if isinstance(value, datetime):
        return None
    return guard_condition(value if isinstance(value, Mapping) else [value])


def timestamp(seconds: float) -> datetime:
    """What ``now`` is to a condition: the engine makes a CEL timestamp of it."""
    return datetime.fromtimestamp(seconds, UTC)


def _why(error: BaseException, text: str) -> str:
    """A sentence for people. It holds nothing of the arguments, because it is recorded where they may be redacted: a
    key is only named where the condition itself names it."""
    if isinstance(error, KeyError):
        key = str(error.args[0]) if error.args else ""
        return f"'{key}' is not there; guard it with has(…)" if key and key in text else "a key is not there"
    if isinstance(error, TypeError):
        return "values of different types are compared, or a value is asked for what its type has not"
    function = re.match(r"Function '(\w+)' error", str(error))
    if function:
        return f"the function {function[1]} cannot take what it was given"
    return f"the engine says {type(error).__name__}"
