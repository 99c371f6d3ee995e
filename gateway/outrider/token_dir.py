"""The agents' token for those who share one folder with the sidecar and nothing else: another container, another user.

The data folder stays closed to them, and so the people's token. What is written here is a copy: it is written anew at
each start, and who changes it changes nothing but what its readers send.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from outrider.errors import Misconfigured

FILE = "agent.token"
MODE = 0o640
"""Read by the group of the folder; written by the sidecar's user only."""


def publish(token: str, folder: Path, data: Path) -> Path:
    """Write the token into ``folder``, whole or not at all. Raises Misconfigured."""
    _check(folder, data)
    target = folder / FILE
    try:
        descriptor, written = tempfile.mkstemp(dir=folder, prefix=".agent.")
    except OSError as error:
        fix = "Make it writable for the sidecar's user."
        raise Misconfigured(f"--token-dir {folder} cannot be written: {error.strerror}. {fix}") from None
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
            file.flush()
            _give_to_group(file.fileno(), folder)
        Path(written).replace(target)  # a link that somebody laid there is replaced, not followed
    except BaseException:
        with contextlib.suppress(OSError):
            Path(written).unlink()
        raise
    return target


def _check(folder: Path, data: Path) -> None:
    if not folder.is_dir():
        fix = "Make it, or mount the volume that the agents share, then start again."
        raise Misconfigured(f"--token-dir {folder} is not a folder. {fix}")
    shared, private = folder.resolve(), data.resolve()
    if shared == private or shared in private.parents or private in shared.parents:
        fix = "Name a folder of its own: agents reach the first and must never reach the second."
        raise Misconfigured(f"--token-dir {folder} and --data {data} lie in each other. {fix}")


def _give_to_group(descriptor: int, folder: Path) -> None:
    """The folder's group may read; a mode wider than that is never given, whatever the umask says."""
    group = folder.stat().st_gid
    try:
        if os.fstat(descriptor).st_gid != group:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, MODE)
    except OSError as error:
        raise Misconfigured(
            f"--token-dir {folder} belongs to group {group}, which the sidecar's user is not in ({error.strerror}), so "
            "that group cannot be let read the token. Give the folder to a group of both (in Kubernetes: fsGroup)."
        ) from None
