"""Records on their way into the database, kept where this process's death does not reach them: ``DATA/ahead``.

A commit costs more than all the rest of a short call. So the end of a call is first copied, with the call's other
records that are not committed yet, into a file mapped into memory: a few microseconds, no system call, and from then on
the system has it, whatever becomes of this process. Its caller is answered; the batch is committed a little later. The
next start writes into the chain what it finds here and not in the ledger.

What must survive the machine's death as well (the intent of an effect, a kill, every strict record) never takes this
way: it waits for its batch to be committed and synced.

    file   = area area
    area   = frame… 0₃₂
    frame  = size₃₂ crc₃₂ MessagePack[(number, columns, body, [(kind, salt, text)…])…]    integers little-endian

New frames go to one area while the records of the other are being committed; an area whose records are all in the
ledger is emptied. A frame that was only half copied fails its checksum (CRC-32), and the area ends before it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from outrider import clock
from outrider.ledger.entry import Columns, Entry
from outrider.ledger.redact import Captured

FILE: Final = "ahead"
AREA_BYTES: Final = 1024 * 1024
"""Room for the records of some 500 short calls in each of the two areas; what does not fit waits for its commit."""
PATIENCE_S: Final = 0.5
LOOK_S: Final = 0.005
_FRAME: Final = struct.Struct("<II")
_END: Final = b"\0\0\0\0"


_Saved = tuple[int, Columns, bytes, list[tuple[int, bytes, str | None]]]
"""One record as it lies in a frame: number, columns, body, payloads."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Saved]).decode


class _Area:
    """One half of the file. ``last`` is the highest number of a record in it, 0 while it is empty."""

    __slots__ = ("begin", "end", "last", "memory", "position")

    def __init__(self, memory: mmap.mmap, begin: int, end: int) -> None:
        self.memory = memory
        self.begin = self.position = begin
        self.end = end
        self.last = 0

    def put(self, frame: bytes, last: int) -> bool:
        """Append; False where it does not fit."""
        after = self.position + len(frame)
        if after + len(_END) > self.end:
            return False
        self.memory[self.position : after + len(_END)] = frame + _END
        self.position = after
        self.last = last
        return True

    def empty(self) -> None:
        self.memory[self.begin : self.begin + len(_END)] = _END
        self.position = self.begin
        self.last = 0

    def frames(self) -> Iterable[bytes]:
        """What lies in it, up to the first frame that is not whole."""
        at = self.begin
        while at + _FRAME.size <= self.end:
            size, checksum = _FRAME.unpack_from(self.memory, at)
            begin, at = at + _FRAME.size, at + _FRAME.size + size
            if size == 0 or at > self.end or zlib.crc32(self.memory[begin:at]) != checksum:
                return
            yield self.memory[begin:at]


class Ahead:
    """The file of one running ledger."""

    def __init__(self, memory: mmap.mmap, area_bytes: int) -> None:
        self._memory = memory
        self._area = _Area(memory, 0, area_bytes)
        self._other = _Area(memory, area_bytes, 2 * area_bytes)

    @classmethod
    def open(cls, folder: Path, *, area_bytes: int = AREA_BYTES) -> Ahead | None:
        """None where the disk has no room for the file: every record then waits for its commit. Raises OSError or
        ValueError: it cannot be mapped, and holds records that somebody was told of."""
        try:
            return cls(_map(folder / FILE, 2 * area_bytes), area_bytes)
        except (OSError, ValueError):
            if any(_heads(folder / FILE, area_bytes)):
                raise
            return None

    def left_behind(self) -> list[Entry]:
        """What the process before this one put here and did not empty, in the order of its appends. Raises ValueError:
        it was written by an Outrider that speaks another format."""
        try:
            saved = [one for area in (self._area, self._other) for frame in area.frames() for one in _decode(frame)]
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error
        return [_entry(one) for one in sorted(saved, key=lambda one: one[0])]

    def put(self, entries: Sequence[Entry]) -> bool:
        """Keep these, in the order of their numbers. False: no room; they are safe only once they are committed."""
        packed = _encode([_saved(entry) for entry in entries])
        frame = _FRAME.pack(len(packed), zlib.crc32(packed)) + packed
        if self._area.last and not self._other.last:
            self._area, self._other = self._other, self._area  # so that the one just left will be emptied
        return self._area.put(frame, entries[-1].number)

    def settle(self, oldest: int) -> None:
        """Empty what holds only records before ``oldest``, the number of the first one that is not committed."""
        for area in (self._area, self._other):
            if area.last and area.last < oldest:
                area.empty()

    def wipe(self) -> None:
        """Overwrite what is empty: an erased value must not be found here either."""
        for area in (self._area, self._other):
            if not area.last:
                self._memory[area.begin : area.end] = bytes(area.end - area.begin)

    def clear(self) -> None:
        """Everything in it is in the ledger."""
        self._area.empty()
        self._other.empty()
        self.wipe()

    def close(self) -> None:
        with contextlib.suppress(BufferError):
            self._memory.close()


def caught_up(folder: Path, patience_s: float = PATIENCE_S) -> bool:
    """Wait, on this thread, until the database has what was acknowledged before now. False: it did not come to that;
    the sidecar's disk is in trouble, or the sidecar was killed and no other has started since."""
    first = _first_frames(folder)
    until = clock.monotonic() + patience_s
    while any(first):
        if clock.monotonic() > until:
            return False
        time.sleep(LOOK_S)
        first = [before if before == now else b"" for before, now in zip(first, _first_frames(folder), strict=True)]
    return True


def _first_frames(folder: Path) -> list[bytes]:
    """Size and checksum of the first frame of each area, empty where there is none: an area is emptied as a whole."""
    try:
        return _heads(folder / FILE, AREA_BYTES)
    except OSError:
        return [b"", b""]


def _heads(path: Path, area_bytes: int) -> list[bytes]:
    """Likewise. Raises OSError: the file is there and cannot be read."""
    try:
        with path.open("rb") as file:
            heads = [(file.seek(begin), file.read(_FRAME.size))[1] for begin in (0, area_bytes)]
    except FileNotFoundError:
        return [b"", b""]
    return [head if head[: len(_END)] != _END else b"" for head in heads]


def _map(path: Path, size: int) -> mmap.mmap:
    """The file in memory, with its room on the disk taken, so that writing to it cannot fail later."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_blocks * 512 < size:
            _fill(descriptor, os.fstat(descriptor).st_size, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _fill(descriptor: int, begin: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    elif begin < size:
        os.pwrite(descriptor, bytes(size - begin), begin)


def _saved(entry: Entry) -> _Saved:
    payloads = [(kind, kept.salt, kept.text) for kind, kept in entry.payloads] if entry.payloads else []
    return entry.number, entry.columns, entry.body, payloads


def _entry(saved: _Saved) -> Entry:
    entry = Entry()
    entry.number, entry.columns, entry.body, payloads = saved
    entry.payloads = [(kind, Captured(salt, "", 0, text, "")) for kind, salt, text in payloads]
    entry.mutations = ()
    entry.appended = 0.0
    entry.is_start = False
    entry.durable = True
    entry.ahead = True
    entry.size = len(entry.body)
    return entry
