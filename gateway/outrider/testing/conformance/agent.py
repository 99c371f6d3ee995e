"""An agent's process, as the test holds it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from outrider import clock
from outrider.testing.conformance.driver import Driver
from outrider.testing.conformance.place import DriverPlace
from outrider.testing.conformance.script import Play, Report, encode, reports_of
from outrider.testing.conformance.waiting import LOOK_S, PATIENCE_S, wait_for
from outrider.testing.process import python_module

LOG_CHARS = 6000
IDLE_S = 5.0
PROGRAM = "outrider.testing.conformance.program"


class AgentProcess:
    """Started with the driver installed; plays one play after the other."""

    def __init__(self, driver: Driver, folder: Path, env: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._log = folder / "log"
        self._numbers = itertools.count()
        self._playing: Playing | None = None
        place = msgspec.json.encode(DriverPlace.of(driver)).decode()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                python_module(PROGRAM, place, str(folder)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                cwd=folder,
                start_new_session=True,  # so that what it forked ends with it
            )
        self._within_s = driver.start_within_s

    def await_ready(self) -> None:
        """Raises AssertionError with its log where it ends or hangs before."""
        try:
            wait_for(lambda: self._ready or not self.alive, "an agent's process that is ready", self._within_s)
            assert self._ready, f"the agent's process ended with {self._process.returncode} before it was ready"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None

    @property
    def _ready(self) -> bool:
        return (self._folder / "ready").exists()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def await_idle(self) -> bool:
        """Whether it lives and has played to the end, soon: behind a scenario that failed it may hang."""
        until = clock.monotonic() + IDLE_S
        while self.alive and self._playing is not None and not self._playing.over and clock.monotonic() < until:
            time.sleep(LOOK_S)
        return self.alive and (self._playing is None or self._playing.over)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """The end of what it printed."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return f"--- log of the agent's process {self.pid}\n{text[-LOG_CHARS:]}"

    def play(self, play: Play) -> Playing:
        """Begin to play."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        self._process.stdin.write(encode(play) + b"\n")
        self._process.stdin.flush()
        self._playing = Playing(self, self._folder / f"answer-{number}")
        return self._playing

    def kill9(self) -> None:
        """SIGKILL, to what it forked too."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


class Playing:
    """A play under way."""

    def __init__(self, agent: AgentProcess, answer: Path) -> None:
        self._agent = agent
        self._answer = answer

    @property
    def over(self) -> bool:
        return self._answer.exists()

    def reports(self, within_s: float = PATIENCE_S) -> list[Report]:
        """What its agents saw. Raises AssertionError where it does not end, where the process died, and for a fault."""
        try:
            wait_for(lambda: self.over or not self._agent.alive, "the end of the agent's run", within_s)
            assert self.over, "the agent's process died"
            reports = reports_of(self._answer.read_bytes())
            for report in reports:
                assert not report.fault, f"the driver raised what it should have told:\n{report.fault}"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._agent.log}") from None
        return reports

    def report(self, within_s: float = PATIENCE_S) -> Report:
        """The one agent's."""
        (report,) = self.reports(within_s)
        return report
