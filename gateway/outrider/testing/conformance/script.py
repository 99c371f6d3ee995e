"""What the suite tells an agent's process, and what it hears: structs that travel as JSON."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

Mode = Literal["sync", "async", "mixed"]
"""``sync``: Driver.run and plain functions. ``async``: Driver.arun and coroutines. ``mixed``: arun and plain ones."""
SHOWN_CHARS = 20_000
"""The most of a text that is sent back whole; of a longer one the head, size and digest are."""


class Asked(msgspec.Struct, frozen=True):
    """One call of the script."""

    tool: str
    text: str = ""


Script = tuple[tuple[Asked, ...], ...]


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one execution of a function does, from top to bottom."""

    meets: int = 0  # waits until so many executions of it have begun
    until: str = ""  # waits until this gate is open
    for_s: float = 0.0  # takes so long
    blocking: bool = False  # waits in a way that blocks the agent's loop, where there is one
    asks: Script = ()  # runs an inner agent; the result is then what that one was told
    then_block: str = ""  # after its end the agent's loop is blocked until this gate is open
    raises: str = ""  # a built-in exception's name
    text: str = ""  # of the exception
    retry_after_s: float = 0.0  # what the exception asks for
    gives: Literal["text", "object", "large", "echo"] = "text"
    value: str = "done"  # of a text, or the words on an object
    size: int = 0  # of a large one, in characters


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool and what its executions do, the last step for all that follow."""

    name: str
    steps: tuple[Step, ...] = (Step(),)
    governed_as: str = ""


class Play(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing for the agent's process to do. ``folder`` holds the gates and the journal."""

    folder: str
    parts: tuple[Part, ...]
    script: Script
    mode: Mode = "sync"
    agents: int = 1  # so many agents at once, with the same script
    cancel_at: str = ""  # the run is cancelled when this gate opens
    stays_until: str = ""  # when its agents are done the loop goes on until this gate opens, as a program's would
    forks: bool = False  # a forked child plays it first, then the process itself


class Heard(msgspec.Struct, frozen=True):
    """What an agent was told of one call."""

    kind: str
    text: str
    size: int
    digest: str

    @staticmethod
    def of(kind: str, text: str) -> Heard:
        data = text.encode("utf-8", "surrogatepass")
        return Heard(kind, text[:SHOWN_CHARS], len(text), hashlib.sha256(data).hexdigest())


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One agent's run. ``fault``: the traceback of what the driver should not have raised."""

    pid: int
    heard: tuple[Heard, ...] = ()
    killed: str = ""
    cancelled: bool = False
    fault: str = ""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the journal: the n-th execution of a tool began or came to an end."""

    tool: str
    n: int
    what: Literal["began", "returned", "raised", "cancelled"]
    pid: int
    text: str = ""


encode = msgspec.json.Encoder().encode


def play_of(data: bytes | str) -> Play:
    return msgspec.json.decode(data, type=Play)


def reports_of(data: bytes) -> list[Report]:
    return msgspec.json.decode(data, type=list[Report])


def entry_of(line: bytes) -> Entry:
    return msgspec.json.decode(line, type=Entry)


def arguments(asked: Asked) -> dict[str, Any]:
    return {"text": asked.text}
