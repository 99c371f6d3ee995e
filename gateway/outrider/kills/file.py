"""The file that stops everything: for a person who can reach the disk when nothing else answers."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

MAX_READ_BYTES = 2000
MAX_REASON = 200

log = logging.getLogger("outrider.kills")


def lies_there(path: Path) -> bool:
    """Whether anything has that name, a dangling link too. What cannot be looked at counts as there."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as fault:
        log.error("%s cannot be looked at, which counts as there: %s", path.name, fault)
    return True


def author(path: Path) -> str:
    """Who engaged the kill: nobody who is known, but it was by this file."""
    return f"file {path.name}"


def reason_in(path: Path) -> str:
    """The file's first line where that is a short sentence, else one about the file. Never blocks, never raises."""
    default = f"the file {path.name} lies in the data folder"
    try:
        text = _read(path).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return default
    lines = text.strip().splitlines()
    line = lines[0].strip() if lines else ""
    return line if line and len(line) <= MAX_REASON and line.isprintable() else default


def _read(path: Path) -> bytes:
    """A pipe laid there would block a plain open for ever, and a link could name any file of this machine."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return os.read(file, MAX_READ_BYTES) if stat.S_ISREG(os.fstat(file).st_mode) else b""
    finally:
        os.close(file)
