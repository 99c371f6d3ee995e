"""A child process: what it gets, what it says, how it ends, and when it may be started again."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.policy.plans import Secret
from outrider.upstreams.mcp.child import Child, NotStarted, environment
from outrider.upstreams.mcp.child_log import BURST, ChildLog
from outrider.upstreams.mcp.lines import Lines, TooLong
from outrider.upstreams.mcp.supervision import GOOD_S, NEXT, Event, State, Supervision
from tests.support.child_kit import is_alive

# ── lines ──


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))), st.data())
def test_lines_are_the_same_however_they_are_cut_into_chunks(lines: list[bytes], data: st.DataObject) -> None:
    """A pipe keeps no boundaries."""
    text = b"".join(line + b"\n" for line in lines)
    reader, found = Lines(100), []
    while text:
        size = data.draw(st.integers(1, len(text)))
        found += reader.feed(text[:size])
        text = text[size:]
    assert found == lines


@pytest.mark.parametrize("chunks", [[b"x" * 11], [b"x" * 6, b"x" * 6], [b"ok\n" + b"x" * 11 + b"\n"]])
def test_a_line_that_does_not_end_is_refused(chunks: list[bytes]) -> None:
    """Memory is bounded, whatever a child prints."""
    reader = Lines(10)
    with pytest.raises(TooLong):
        for chunk in chunks:
            list(reader.feed(chunk))


# ── supervision ──


def crash(child: Supervision, now: float, up_s: float) -> None:
    child.start(now)
    child.ready(now)
    child.gone(now + up_s)


def test_the_first_crash_costs_no_wait_and_then_it_doubles_to_five_minutes() -> None:
    """10 s … 5 m."""
    child, now, waits = Supervision(), 0.0, []
    for _ in range(9):
        crash(child, now, 1.0)
        waits.append(child.left_s(now + 1.0))
        now += 1.0 + waits[-1]
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_child_that_did_well_is_forgiven_what_came_before() -> None:
    """Only crashes in a row count."""
    child = Supervision()
    crash(child, 0.0, 1.0)
    crash(child, 100.0, 1.0)
    assert child.left_s(101.0) == 10
    crash(child, 200.0, GOOD_S)
    assert child.left_s(200.0 + GOOD_S) == 0 and child.crashes == 1


def test_one_that_never_answered_did_not_do_well() -> None:
    """However long it took."""
    child = Supervision()
    for n in range(2):
        child.start(n * 5000.0)
        child.gone(n * 5000.0 + GOOD_S * 2)
    assert child.crashes == 2


def test_what_the_table_does_not_know_does_not_happen() -> None:
    """A second process beside the first above all."""
    assert (State.UP, Event.START) not in NEXT and (State.STARTING, Event.START) not in NEXT
    assert not [state for state, event in NEXT if state is State.CLOSED and event is Event.START]
    child = Supervision()
    child.start(0.0)
    with pytest.raises(ValueError, match="starting cannot start"):
        child.start(1.0)


# ── what it says on stderr ──


def test_a_secret_that_a_child_prints_is_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It was given to it by the policy, and programs print their configuration."""
    log = ChildLog("up", {"TOKEN": Secret("s3cr3t-value", "env:UP_TOKEN"), "MODE": "quiet"})
    with caplog.at_level(logging.INFO):
        log.line(b"using token s3cr3t-value in mode quiet")
    assert "s3cr3t" not in caplog.text and "s3cr3t" not in log.last
    assert log.last == "using token «env:UP_TOKEN» in mode quiet"


async def test_a_chatty_child_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """So many lines at once, and then what was left out is counted."""
    log, stream = ChildLog("up", {}), asyncio.StreamReader()
    stream.feed_data(b"again\n" * 5000 + b"x" * 100_000 + b"\nlast\n")
    stream.feed_eof()
    with caplog.at_level(logging.INFO):
        await log.drain(stream)
    assert BURST <= len(caplog.records) <= BURST + 10
    assert log.left_out >= 5000 - BURST - 10 and log.last == "last"


# ── the process ──


async def started(script: str, folder: Path, **env: str) -> Child:
    return await Child.start((sys.executable, "-c", script), env, str(folder))


async def said(child: Child, n: int = 1) -> list[str]:
    found: list[str] = []
    async for line in child.read(100_000):
        found.append(line.decode())
        if len(found) == n:
            break
    return found


def test_a_child_gets_no_more_of_our_environment_than_programs_need() -> None:
    """No token of ours, no key of a cloud."""
    ours = {"PATH": "/bin", "HOME": "/h", "OUTRIDER_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "k", "LD_PRELOAD": "x"}
    assert environment({"MODE": "quiet"}, ours) == {"PATH": "/bin", "HOME": "/h", "MODE": "quiet"}


async def test_it_runs_in_its_folder_with_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real process, asked."""
    monkeypatch.setenv("OUTRIDER_TOKEN", "ours")
    child = await started("import os; print(os.getcwd(), sorted(os.environ))", tmp_path, MODE="quiet")
    (line,) = await said(child)
    await child.end()
    assert line.startswith(str(tmp_path)) and "'MODE'" in line and "OUTRIDER_TOKEN" not in line


async def test_a_program_that_is_not_there_is_a_sentence() -> None:
    """Not a crash."""
    with pytest.raises(NotStarted, match="No such file"):
        await Child.start(("/nowhere/at-all",), {}, "")
    with pytest.raises(NotStarted):
        await Child.start((sys.executable,), {}, "/nowhere/at-all")


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("raise SystemExit(7)", "exited with code 7"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    ],
)
async def test_how_it_ended_is_told(script: str, how: str, tmp_path: Path) -> None:
    """By code or by signal."""
    child = await started(script, tmp_path)
    assert await asyncio.wait_for(child.how_it_ended(), 30) == how
    await child.end()


async def test_one_that_ends_with_its_stdin_is_let_to(tmp_path: Path) -> None:
    """No signal for a server that keeps to the protocol."""
    child = await started("import sys; print(1, flush=True); sys.stdin.read(); raise SystemExit(5)", tmp_path)
    await said(child)
    await child.end()
    assert await child.how_it_ended() == "exited with code 5"


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
members = [subprocess.Popen(sleeper), subprocess.Popen(sleeper, start_new_session=True)]
print(os.getpid(), *(one.pid for one in members), flush=True)
time.sleep(3600)
"""


async def test_one_that_ignores_everything_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """Its process group, and what left that too; within a bounded time."""
    child = await started(STUBBORN, tmp_path)
    pids = [int(word) for word in (await said(child))[0].split()]
    assert all(is_alive(pid) for pid in pids)
    begun = time.monotonic()
    await child.end()
    assert time.monotonic() - begun < 15
    assert [pid for pid in pids if is_alive(pid)] == []


async def test_what_a_child_that_died_left_behind_is_ended(tmp_path: Path) -> None:
    """A crash loop does not pile up helpers."""
    child = await started(STUBBORN.replace("time.sleep(3600)\n", "os._exit(1)\n"), tmp_path)
    pids = [int(word) for word in (await said(child))[0].split()]
    assert await asyncio.wait_for(child.how_it_ended(), 10) == "exited with code 1"
    assert [pid for pid in pids if is_alive(pid)] == []
    await child.end()


async def test_a_child_dies_with_its_guardian(tmp_path: Path) -> None:
    """Should somebody kill that one."""
    child = await started(STUBBORN, tmp_path)
    *_, escaped = (int(word) for word in (await said(child))[0].split())
    os.kill(child._guardian.pid, signal.SIGKILL)
    assert "guardian" in await asyncio.wait_for(child.how_it_ended(), 10)
    await child.end()
    for _ in range(100):
        if not is_alive(child.pid):
            break
        await asyncio.sleep(0.05)
    assert not is_alive(child.pid)
    os.kill(escaped, signal.SIGKILL)  # out of the group, and nobody left who knew of it


async def test_nothing_of_a_line_leaves_before_it_is_said_to(tmp_path: Path) -> None:
    """A child that does not read: what waits for its turn has provably not been sent."""
    child = await started("import time; time.sleep(3600)", tmp_path)
    left: list[int] = []
    writes = [asyncio.ensure_future(child.write(b"x" * 200_000 + b"\n", lambda n=n: left.append(n))) for n in range(3)]
    await asyncio.sleep(0.3)
    assert left == [0]  # it fills the pipe; the others wait
    await child.end()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert left == [0] and all(isinstance(result, OSError) for result in results[1:])
