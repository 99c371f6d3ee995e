"""What the driver of raw HTTP knows of the caller's side; ``outrider.raw`` has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from outrider.upstreams.streaming import Head, Headers


class CallerGone(Exception):
    """The caller is not there any more: neither is its body, nor does it take an answer."""


class Upload(ABC):
    """A body that is too long to be kept: read once, as it comes. ``length`` is None where the caller does not say."""

    length: int | None = None

    @abstractmethod
    async def read(self) -> bytes:
        """More of it, empty at its end. Raises CallerGone."""


@dataclass(frozen=True, slots=True)
class Said:
    """What goes with an answer beside the server's own headers: of which attempt it is, and what it means."""

    attempt: int
    outcome: str


class RawCaller(ABC):
    """One raw request. ``target`` is the canonical path with its query, which the rules saw; ``headers`` are what may
    go to the upstream. ``whole`` is an answer that was kept: another attempt may follow, or it is short."""

    tool: str
    method: str
    target: str
    headers: Headers
    body: bytes | Upload | None
    whole: tuple[Head, bytes, Said] | None = None

    @abstractmethod
    async def begin(self, head: Head, said: Said) -> None:
        """The head of an answer that is then passed on part by part. Raises CallerGone."""

    @abstractmethod
    async def pass_on(self, part: bytes) -> None:
        """Waits while the caller does not take it. Raises CallerGone."""

    @abstractmethod
    def keep_last(self, part: bytes) -> None:
        """All was passed on but this: it completes the answer, and waits until the call's end is recorded."""

    @abstractmethod
    def reset(self) -> None:
        """Break the connection, so that nobody can take what was passed on for the whole."""
