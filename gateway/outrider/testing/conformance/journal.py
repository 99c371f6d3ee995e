"""Counts what really ran, in a file: the process that counts may die, and the count must not die with it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from outrider.testing.conformance.script import Entry, encode, entry_of

OVER = "over"
"""The gate that opens all others: the scenario is over."""
DONE = "done"
"""The gate that the agent's process opens when its agents are done."""
PATIENCE_S = 40.0
"""The longest that a function waits at a gate."""


class Journal:
    """The executions of one scenario's functions, written by agents' processes and read by the test."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "journal"

    def begin(self, tool: str, text: str) -> int:
        """An execution of ``tool`` begins; its number, counted over all processes."""
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            n = 1 + sum(entry.tool == tool for entry in self.entries("began"))
            os.write(descriptor, encode(Entry(tool, n, "began", os.getpid(), text)) + b"\n")
        finally:
            os.close(descriptor)
        return n

    def end(self, tool: str, n: int, what: str) -> None:
        """An execution came to its end."""
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(descriptor, encode(Entry(tool, n, what, os.getpid())) + b"\n")  # type: ignore[arg-type]
        finally:
            os.close(descriptor)

    def entries(self, what: str = "") -> list[Entry]:
        """What was written, in order."""
        lines = self._file.read_bytes().splitlines() if self._file.exists() else []
        return [entry for entry in map(entry_of, lines) if not what or entry.what == what]


class Gates:
    """Files by which a test holds a function and lets it go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, name: str) -> None:
        (self._folder / f"gate-{name}").touch()

    def is_open(self, name: str) -> bool:
        return (self._folder / f"gate-{name}").exists() or (self._folder / f"gate-{OVER}").exists()
