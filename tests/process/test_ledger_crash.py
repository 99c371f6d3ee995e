"""SIGKILL and the ledger: what was acknowledged is there, what is there verifies, and a sync comes before its word."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from outrider.ledger.query import tail
from outrider.ledger.verify import verify

CHILD = Path(__file__).with_name("ledger_child.py")


def start(folder: Path, what: str, *before: str, after: str = "0") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, sys.executable, str(CHILD), str(folder), what, after], stdout=subprocess.PIPE, text=True, bufsize=1
    )


def write_until_killed(folder: Path, records: int) -> dict[int, str]:
    """Kill the writers once so many records were acknowledged. Returns every acknowledgement that got out."""
    child = start(folder, "crowd")
    assert child.stdout is not None
    acknowledged: dict[int, str] = {}
    for line in child.stdout:
        if len(acknowledged) == records:
            child.kill()  # and read on: what it said before counts
        if line != "ready\n" and line.endswith("\n"):
            seq, _, rest = line.rstrip("\n").partition(" ")
            acknowledged[int(seq)] = rest
    assert child.wait() == -9
    child.stdout.close()
    return acknowledged


def written(folder: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    while page := tail(folder, 1000, after_seq=len(found)):
        for record in page:
            found[record["seq"]] = f"{record['call_id']} {record['type']} {record.get('attempt', 0)}"
    return found


def test_killed_again_and_again_the_ledger_keeps_every_acknowledged_record(tmp_path: Path) -> None:
    """Durable or not (the machine lives on), before and after the next start; every attempt has exactly one end."""
    acknowledged: dict[int, str] = {}
    for records in (3, 40, 333, 150, 1):
        told = write_until_killed(tmp_path, records)
        assert not told.keys() & acknowledged.keys(), "no number is given twice"
        acknowledged |= told
        found = written(tmp_path)
        assert {seq: found.get(seq) for seq in acknowledged} == acknowledged
        report = verify(tmp_path)
        assert report.ok and report.records == len(found), report
    last = subprocess.run(
        [sys.executable, str(CHILD), str(tmp_path), "one"], stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert b"ready" in last.stdout
    report = verify(tmp_path)
    assert report.ok and report.open_attempts == 20  # those of the last run, which ends none
    ends = Counter(text for text in written(tmp_path).values() if " attempt.finished " in text)
    starts = Counter(text for text in written(tmp_path).values() if " attempt.started " in text)
    assert set(ends.values()) == {1} and set(starts.values()) == {1}
    assert len(starts) - len(ends) == 20


@pytest.mark.parametrize("commits_after_s", [0.005, 60.0])
def test_what_was_acknowledged_ahead_of_its_commit_outlives_sigkill(tmp_path: Path, commits_after_s: float) -> None:
    """Whether some of it was committed or nothing was; the next start writes what is missing, once, and whole calls."""
    acknowledged: set[str] = set()
    for calls in (1, 150, 37):
        child = start(tmp_path, "ahead", after=str(commits_after_s))
        assert child.stdout is not None
        told = 0
        for line in child.stdout:
            if line != "ready\n" and line.endswith("\n"):
                acknowledged.add(line.strip())
                told += 1
            if told == calls:
                child.kill()
        assert child.wait() == -9
        child.stdout.close()
    in_database = {text.split()[0] for text in written(tmp_path).values() if " call.finished " in text}
    if commits_after_s == 60.0:
        assert not acknowledged <= in_database, "nothing was committed: this is what the test is about"
    subprocess.run([sys.executable, str(CHILD), str(tmp_path), "one"], stdout=subprocess.PIPE, check=True, timeout=60)
    report = verify(tmp_path)
    assert report.ok, report
    events = Counter(" ".join(text.split()[:2]) for text in written(tmp_path).values())
    for call_id in acknowledged:
        for kind in ("call.received", "attempt.started", "attempt.finished", "call.finished"):
            assert events[f"{call_id} {kind}"] == 1


def strace_works(tmp_path: Path) -> bool:
    """Installed, and allowed to trace here."""
    command = ["strace", "-f", "-o", str(tmp_path / "trial"), "true"]
    return shutil.which("strace") is not None and subprocess.run(command, check=False).returncode == 0


def seen_by_strace(tmp_path: Path) -> list[str]:
    """``write`` (to the write-ahead log), ``sync`` (come back with success) and ``ack``, as the kernel saw them."""
    trace = tmp_path / "trace"
    options = ["-f", "-y", "-e", "trace=pwrite64,fdatasync,fsync,write", "-o", str(trace)]
    child = start(tmp_path / "data", "one", "strace", *options)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0 and "ack 20" in output
    events: list[str] = []
    syncing: set[str] = set()  # threads whose sync of the log has not come back
    for line in trace.read_text().splitlines():
        thread = line.split()[0]
        if "outrider.db-wal" in line and "pwrite64(" in line:
            events.append("write")
        elif "outrider.db-wal" in line and "sync(" in line:
            syncing.add(thread)
        elif "write(1" in line and '"ack ' in line:
            events.append("ack")
        if thread in syncing and "sync" in line and line.rstrip().endswith("= 0"):
            syncing.discard(thread)
            events.append("sync")
    return events


def seen_by_sqlite(tmp_path: Path) -> list[str]:
    """The same story as SQLite tells it: a statement that commits in FULL mode returns after a sync."""
    child = start(tmp_path / "data", "spy")
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    events: list[str] = []
    for line in output.splitlines():
        if line.startswith("commit"):
            events += ["write"] + (["sync"] if line == "commit FULL" else [])
        elif line.startswith("ack"):
            events.append("ack")
    return events


def seen_by_the_best_witness(tmp_path: Path) -> list[str]:
    """strace where it is installed and may trace; the test's output says which it was."""
    by_kernel = strace_works(tmp_path)
    print("witness:", "strace" if by_kernel else "sqlite")
    return seen_by_strace(tmp_path) if by_kernel else seen_by_sqlite(tmp_path)


@pytest.mark.parametrize("witness", [seen_by_sqlite, seen_by_the_best_witness])
def test_a_durable_record_is_synced_before_it_is_acknowledged(
    tmp_path: Path, witness: Callable[[Path], list[str]]
) -> None:
    """Written, then synced, then acknowledged, twenty times: as SQLite tells it, and as the kernel does where it may be
    asked."""
    events = witness(tmp_path)
    story = re.sub(r"w+", "w", "".join(event[0] for event in events))
    assert story.count("a") == 20
    for told in story.split("a")[:-1]:
        assert told.endswith("ws"), f"between two acknowledgements: {told}"
