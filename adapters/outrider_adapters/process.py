"""The one channel of this process: made on first use, made anew after a fork, closed at exit."""

from __future__ import annotations

import atexit
import os
import threading
import time
from dataclasses import replace

from outrider.errors import Misconfigured
from outrider_adapters import environment
from outrider_adapters.channel import EXIT_S, Channel
from outrider_adapters.environment import Surroundings
from outrider_adapters.work import INSIDE

IDLE_CLOSE_S = 30.0
"""After the last adapter was uninstalled, calls still under way get this long before the channel closes."""

_lock = threading.Lock()
_channel: Channel | None = None
_surroundings: Surroundings | None = None  # what an install() said; else the environment
_frameworks: dict[str, str] = {}
_users: set[str] = set()


def current() -> Channel:
    """This process's channel; made from the environment when nobody configured it. Raises Misconfigured."""
    channel = _channel
    return channel if channel is not None else _make()


def _make() -> Channel:
    global _channel
    with _lock:
        if _channel is None:
            _channel = Channel(_surroundings or environment.read())
            _channel.frameworks.update(_frameworks)
        return _channel


def configure(surroundings: Surroundings, user: str, framework: str, version: str) -> Channel:
    """An adapter is installed: settle where the sidecar is, and begin to connect. Raises Misconfigured when another
    adapter of this process was told another sidecar."""
    global _channel, _surroundings
    with _lock:
        before = _channel.surroundings if _channel is not None else _surroundings
        clash = before is not None and _where(before) != _where(surroundings)
        if clash and before is not None:
            if _users - {user} or (_channel is not None and not _channel.idle):
                raise Misconfigured(
                    f"this process already talks to the sidecar at {before.url}, with one credential; {framework} was "
                    f"told {surroundings.url}. One process has one sidecar: give both the same url and token."
                )
            old, _channel = _channel, None
            if old is not None:
                old.close(reason="configured anew")
        _surroundings = surroundings
        _users.add(user)
        _frameworks[framework] = version
        if _channel is not None and not _channel.up:
            _channel.surroundings = surroundings
    channel = current()
    channel.frameworks[framework] = version
    channel.start()
    return channel


def _where(surroundings: Surroundings) -> tuple[str, str, str]:
    return surroundings.url, surroundings.token, surroundings.token_file


def release(user: str, framework: str) -> None:
    """An adapter was uninstalled. When it was the last one, the channel says goodbye once nothing is under way."""
    global _channel, _surroundings
    with _lock:
        _users.discard(user)
        _frameworks.pop(framework, None)
        if _users:
            return
        channel, _channel, _surroundings = _channel, None, None
    if channel is None:
        return
    if channel.idle:
        channel.close(reason="uninstalled")
    else:
        threading.Thread(target=_close_when_idle, args=(channel,), name="outrider-closing", daemon=True).start()


def _close_when_idle(channel: Channel) -> None:
    until = time.monotonic() + IDLE_CLOSE_S
    while not channel.idle and time.monotonic() < until:
        time.sleep(0.02)
    channel.close(reason="uninstalled")


def close(timeout_s: float = EXIT_S) -> None:
    """Tell what is left to tell, say goodbye, forget the channel; the next call makes another. At exit by itself."""
    global _channel
    with _lock:
        channel, _channel = _channel, None
    if channel is not None:
        channel.close(timeout_s)


def _after_fork_in_child() -> None:
    """The parent's thread, socket and locks are not this process's: start over, with another instance and key."""
    global _channel, _lock, _inherited
    _lock = threading.Lock()
    if _channel is not None:
        _channel.forsake()
        _inherited = _channel  # kept alive: its sockets must not be closed by the garbage collector
        _channel = None
    inside = INSIDE.get()
    if inside is not None:  # forked inside a function: that call is the parent process's, and so are its limits
        INSIDE.set(replace(inside, call="", attempt=None))


_inherited: Channel | None = None
atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
