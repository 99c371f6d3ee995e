"""``outrider demo`` as a newcomer runs it: everything happens as told, in time, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

LIMIT_S = 60.0
COMMAND = [sys.executable, "-m", "outrider", "demo", "--json"]


class Footprint:
    """Finds what a demonstration leaves: processes by a mark in their environment, files by the folder for them."""

    def __init__(self, folder: Path) -> None:
        self.mark = uuid4().hex
        self.folder = folder / "tmp"
        self.home = folder / "home"
        self.folder.mkdir()
        self.home.mkdir()
        self.env = {**os.environ, "DEMO_MARK": self.mark, "TMPDIR": str(self.folder), "HOME": str(self.home)}

    def processes(self) -> list[str]:
        """The command lines of those that run."""
        return [
            (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._is_marked(entry)
        ]

    def _is_marked(self, entry: Path) -> bool:
        try:
            return f"DEMO_MARK={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            return False

    def files(self) -> list[Path]:
        return [*self.folder.iterdir(), *self.home.iterdir()]


class Tallies:
    """Keeps the files in which the clerks' functions count themselves: the demonstration removes its folder, a second
    name for a file stays."""

    def __init__(self, footprint: Footprint, kept: Path) -> None:
        self._footprint = footprint
        self._kept = kept
        self._over = threading.Event()

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        thread = threading.Thread(target=self._follow)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _follow(self) -> None:
        while not self._over.wait(0.05):
            for file in self._footprint.folder.glob("*/*.tally"):
                with contextlib.suppress(OSError):  # it has its second name, or is gone
                    (self._kept / file.name).hardlink_to(file)

    def counts(self, how: str) -> Counter[tuple[str, str]]:
        """By clerk and function; ``how`` is ``with`` or ``without``."""
        lines = (self._kept / f"clerks-{how}.tally").read_text().splitlines()
        return Counter((line["clerk"], line["tool"]) for line in map(json.loads, lines))


def run_demo(footprint: Footprint, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """To its end; the last line's JSON, empty where there is none."""
    ended = subprocess.run(
        [*COMMAND, *options],
        env=footprint.env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=110,
        check=False,
    )
    return ended, json.loads(ended.stdout.splitlines()[-1]) if ended.stdout else {}


def test_everything_happens_as_told(tmp_path: Path) -> None:
    """With all frameworks: exit 0, in time, the summary as the last line, no write twice, the ledger verified, nothing
    left behind, and the frameworks' figures are what their tools counted."""
    footprint = Footprint(tmp_path)
    tallies = Tallies(footprint, tmp_path)
    began = time.monotonic()
    with tallies.following():
        ended, told = run_demo(footprint)
    took_s = time.monotonic() - began
    false = [claim for claim in told.get("claims", []) if not claim["true"]]
    assert ended.returncode == 0, f"{false}\n{ended.stderr[-6000:]}"
    assert took_s < LIMIT_S
    assert told["ok"] is True and len(told["claims"]) >= 27 and false == []

    check_the_back_office(told)
    check_the_frameworks(told, tallies)
    assert footprint.processes() == []
    assert footprint.files() == []


def check_the_back_office(told: dict[str, Any]) -> None:
    without, governed = told["without_outrider"], told["with_outrider"]
    assert governed["writes_executed_twice"] == 0 < without["writes_executed_twice"]
    assert governed["writes_lost"] == 0 < without["writes_lost"]
    assert governed["customers_deleted"] == 0 < without["customers_deleted"]
    assert governed["refunds"] < without["refunds"]
    assert governed["tasks"]["crashed"] == governed["tasks"]["stuck"] == 0
    assert governed["tasks"]["completed"] > without["tasks"]["completed"]
    assert told["breaker"][0] == told["breaker"][-1] == "closed" and "open" in told["breaker"]
    assert told["kill"]["scope"] == "agent:night-shift" and told["kill"]["calls"]
    assert told["ledger"]["verified"] is True and told["ledger"]["records"] > 100


ALONE = {"clerk_langgraph": (1, 1, 1), "clerk_crewai": (1, 1, 1), "clerk_react": (3, 6, 6), "clerk_autogen": (1, 1, 1)}
"""How often each framework executes a function that fails twice, always, and after it acted, by itself."""


def check_the_frameworks(told: dict[str, Any], tallies: Tallies) -> None:
    frameworks = told["frameworks"]
    assert {figures["framework"] for figures in frameworks.values()} == {"langgraph", "crewai", "autogen"}
    assert told["frameworks_left_out"] == {}
    counted = {how: tallies.counts(how) for how in ("with", "without")}
    for clerk, figures in frameworks.items():
        for how, counts in counted.items():
            for duty, figure in figures[f"{how}_outrider"].items():
                assert figure["executed"] == counts[clerk, TOOLS[duty]], (clerk, how, duty)
        alone, governed = figures["without_outrider"], figures["with_outrider"]
        assert tuple(alone[duty]["executed"] for duty in COMPARED) == ALONE[clerk]
        assert tuple(governed[duty]["executed"] for duty in COMPARED) == (3, 3, 1), clerk
        assert [governed[duty]["ended"] for duty in COMPARED] == ["completed", "gave_up", "gave_up"], clerk
        assert governed["endless"]["ended"] == "stopped" and governed["endless"]["executed"] >= 2, clerk
    assert told["kill_of_all"]["scope"] == "agent:clerk_*"
    assert {call["agent"] for call in told["kill_of_all"]["calls"]} <= set(frameworks)


TOOLS = {"fails_twice": "find_parcel", "never_works": "weigh_parcel", "answer_lost": "pay_back", "endless": "remind"}
COMPARED = ("fails_twice", "never_works", "answer_lost")


def test_langgraph_alone(tmp_path: Path) -> None:
    """As in an environment that has nothing else: the act of the other frameworks is left out, and all else is told."""
    footprint = Footprint(tmp_path)
    ended, told = run_demo(footprint, "--frameworks", "langgraph")
    assert ended.returncode == 0, ended.stderr[-6000:]
    assert told["ok"] is True and "frameworks" not in told and "Other frameworks" not in ended.stderr
    assert len(told["claims"]) >= 20
    assert footprint.files() == []


@pytest.mark.parametrize("log", ["desk-without.log", "crewai-without.log"])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, log: str) -> None:
    """Ctrl-C, twice, while its processes are starting: the agents first, then, behind what is shown, the clerks. Exit
    130, and they are gone."""
    footprint = Footprint(tmp_path)
    demo = subprocess.Popen(
        COMMAND,
        env=footprint.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # a shell that starts this in the background would have it ignore the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        _wait_until(lambda: any(footprint.folder.rglob(log)))
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 130
    finally:
        demo.kill()
        demo.wait()
    assert footprint.processes() == []
    assert footprint.files() == []


def agents_start(folder: Path) -> bool:
    """Those that the sidecar, then ready, governs."""
    return any(folder.rglob("*-with.log"))


def clerks_remind(folder: Path) -> bool:
    """In every framework an endless loop is under way."""
    reminded = [line for file in folder.rglob("clerks-with.tally") for line in file.read_text().splitlines()]
    return {json.loads(line)["clerk"] for line in reminded if '"remind"' in line} == set(ALONE)


@pytest.mark.parametrize("moment", [agents_start, clerks_remind])
def test_a_killed_demonstration_leaves_no_process_behind(tmp_path: Path, moment: Callable[[Path], bool]) -> None:
    """SIGKILL lets it end nothing: its children see that it is gone. Its folder stays, with nobody to remove it."""
    footprint = Footprint(tmp_path)
    demo = subprocess.Popen(
        COMMAND,
        env=footprint.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until(lambda: moment(footprint.folder))
        assert any(" serve " in line for line in footprint.processes())
    finally:
        demo.kill()
        demo.wait()
    _wait_until(lambda: footprint.processes() == [])
    assert list(footprint.home.iterdir()) == []


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
