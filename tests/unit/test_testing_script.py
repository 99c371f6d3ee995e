"""The script of a scripted upstream: which step is next, and its JSON form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.testing.script import (
    Action,
    Script,
    Step,
    drip,
    echo,
    garbage,
    hang,
    hold,
    huge,
    refuse,
    reset,
    reset_after_headers,
    respond,
    stale,
    truncate,
    unavailable,
)


def statuses(script: Script, path: str, count: int, method: str = "GET") -> list[int]:
    return [script.next(method, path).status for _ in range(count)]


def test_each_request_gets_the_next_step_and_the_last_repeats() -> None:
    """First 503 twice, then 200 for ever."""
    script = Script({"/pay": [unavailable().times(2), respond(201), respond(200)]})
    assert statuses(script, "/pay", 5) == [503, 503, 201, 200, 200]


def test_the_most_exact_path_decides() -> None:
    """Exact over prefix, longer over shorter, with a method over without."""
    script = Script(
        {"*": respond(1), "/a*": respond(2), "/ab*": respond(3), "/abc": respond(4), "POST /abc": respond(5)}
    )
    assert [script.next("GET", path).status for path in ("/x", "/ax", "/abx", "/abc")] == [1, 2, 3, 4]
    assert script.next("POST", "/abc").status == 5


def test_paths_count_apart() -> None:
    """What one path received moves no other path's steps."""
    script = Script({"/a": [respond(1), respond(2)], "/b": [respond(3), respond(4)]})
    assert statuses(script, "/a", 2) + statuses(script, "/b", 1) == [1, 2, 3]


def test_new_steps_begin_anew() -> None:
    """Setting a path's steps restarts that path only."""
    script = Script({"/a": [respond(1), respond(2)], "/b": [respond(3), respond(4)]})
    statuses(script, "/a", 2)
    statuses(script, "/b", 1)
    script.update({"/a": [respond(7), respond(8)]})
    assert statuses(script, "/a", 2) + statuses(script, "/b", 1) == [7, 8, 4]


def test_what_is_not_scripted_is_echoed() -> None:
    """A script is not needed for a first look."""
    assert Script().next("GET", "/").do is Action.ECHO


STEPS = [
    respond(201, json={"a": [1]}, headers={"X-A": "b"}, then_close=True),
    respond(body=b"\xff\x00").after(0.5),
    unavailable(retry_after_s=2).times(3),
    echo(),
    hang(1.5),
    hang(),
    hold(json=None),
    reset(),
    reset_after_headers(b"abc", sent=1),
    truncate("whole", sent=2),
    drip("slow", every_s=0.1, chunk=2),
    garbage(),
    huge(10**9),
    Step(do=Action.CLOSE),
    stale(json=1),
    refuse(0.2),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.do))
def test_a_step_survives_json(step: Step) -> None:
    """What is written to a script file is read back the same."""
    assert Step.from_json(json.loads(json.dumps(step.as_json()))) == step


def test_every_action_has_a_step_here() -> None:
    """The list above leaves no action out."""
    assert {step.do for step in STEPS} == set(Action)


@given(st.dictionaries(st.text(max_size=5), st.lists(st.sampled_from(STEPS), min_size=1, max_size=4), max_size=4))
def test_a_script_survives_json(steps: dict[str, list[Step]]) -> None:
    """Whole scripts too."""
    script = Script(steps)
    assert Script.from_json(json.loads(json.dumps(script.as_json()))).steps() == script.steps()


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ([], "a script is an object"),
        ({"/a": {}}, "'/a': a step needs 'do', one of respond, echo"),
        ({"/a": [{"do": "explode"}]}, "'/a': a step needs 'do'"),
        ({"/a": [{"do": "hang", "seconds": 1}]}, "a step has no seconds"),
        ({"/a": [{"do": "respond", "json": 1, "body": "1"}]}, "either json or body"),
        ({"/a": []}, "'/a' needs at least one step"),
    ],
)
def test_a_mistaken_script_is_told_what_and_where(shown: object, message: str) -> None:
    """Not a traceback from the depth of a server."""
    with pytest.raises(ValueError, match=message):
        Script.from_json(shown)


def test_a_step_is_done_at_least_once() -> None:
    """Zero times would be a hole in the script."""
    with pytest.raises(ValueError, match="at least once"):
        respond().times(0)
