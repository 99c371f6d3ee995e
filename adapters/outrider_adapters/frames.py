"""What this process says of itself and of a call: the frames ``hello`` and ``open``."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

import msgspec

from outrider import wire
from outrider_adapters import declared, tracing, views
from outrider_adapters.exchange import Exchange

UNNAMED = "anonymous"
"""What a process says that was not told its agent's name. One with a token of its own is told by the welcome."""
NAME_CHARS = 200
"""The longest name that the gateway takes for a run, a session and so on."""


@dataclass(frozen=True, slots=True)
class Myself:
    """Who says hello. ``frameworks``: name → version of those whose adapters are installed."""

    agent: str
    instance: str
    session_key: str
    frameworks: Mapping[str, str]


def hello(
    me: Myself, running: Iterable[tuple[str, int]], unacked: Iterable[wire.Finished], opens: tuple[str, ...]
) -> bytes:
    """The greeting, encoded."""
    return wire.encode_frame(
        wire.Hello(
            protocol=wire.PROTOCOL,
            oldest_protocol=wire.OLDEST_PROTOCOL,
            agent=me.agent or UNNAMED,
            framework="+".join(me.frameworks) or "python",
            instance=me.instance,
            session_key=me.session_key,
            versions={"outrider": _version(), "python": platform.python_version(), **me.frameworks},
            host=socket.gethostname(),
            pid=os.getpid(),
            tools=tuple(wire.Tool(tool, digest) for tool, digest in declared.at_hello()),
            running=tuple(wire.Running(call, n) for call, n in dict.fromkeys(running)),
            unacked=tuple(unacked),
            opens=opens,
        )
    )


def encode_open(exchange: Exchange, *, named: bool, digest: str = "") -> bytes:
    """``open``, encoded, whatever the arguments are. ``named``: the process's credential says who it is. ``digest`` of
    the tool is told where it is news."""
    work = exchange.work
    traceparent, tracestate = tracing.running()
    frame = wire.Open(
        ref=exchange.ref,
        tool=work.tool,
        args=dict(work.args),
        agent="" if named else tidy(exchange.agent),
        run=tidy(exchange.run),
        session=tidy(exchange.session),
        parent=exchange.parent,
        caller_ref=tidy(work.caller_ref),
        traceparent=traceparent,
        framework_tool=tidy(work.framework_tool),
        digest=digest,
        tracestate=tracestate,
        declares=work.declares,
    )
    try:
        return views.encode(frame)
    except Exception:  # what has no JSON form: lone surrogates, cycles, numbers beyond 64 bits, strange keys
        return views.encode(msgspec.structs.replace(frame, args=views.plain(work.args)))


def tidy(name: str) -> str:
    """A name as the gateway takes it: printable, no blanks around it, at most 200 characters. A longer one keeps its
    head and gets a digest, so that two long names stay two."""
    name = name.strip()
    if len(name) <= NAME_CHARS and name.isprintable():
        return name
    shown = "".join(letter if letter.isprintable() else "?" for letter in name[: NAME_CHARS - 20])
    return f"{shown}~{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:16]}"


def _version() -> str:
    try:
        return metadata.version("outrider")
    except metadata.PackageNotFoundError:
        return "unknown"
