"""Which root invocation a tool call belongs to: the run.

LangChain gives every invocation an id and its parent's, and tells both to callback handlers, but never the root. A
handler that is present in every invocation keeps ``id → root`` while the invocation lives. The root's id is the one
that the caller gave (``config["run_id"]``), else the one LangChain minted, which tracers know too.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

MAX_LIVE = 50_000
"""Invocations that never end (generators that nobody closes) must not grow without bound."""


class _Roots(BaseCallbackHandler):
    """Watches, never interferes. ``run_inline``: in an async invocation it is called at once, not in an executor."""

    run_inline = True

    def __init__(self) -> None:
        self.on = False
        self._lock = threading.Lock()
        self._roots: dict[UUID, UUID] = {}
        self._members: OrderedDict[UUID, set[UUID]] = OrderedDict()  # root → what is under way in it

    def root_of(self, run_id: UUID) -> UUID:
        """Itself, where it began before anyone watched."""
        return self._roots.get(run_id, run_id)

    @property
    def live(self) -> int:
        """How many invocations are under way. (No ``__len__``: LangChain asks a handler whether it is true.)"""
        return len(self._roots)

    def _began(self, run_id: UUID, parent: UUID | None) -> None:
        if not self.on:
            return
        with self._lock:
            root = run_id if parent is None else self._roots.get(parent, parent)
            self._roots[run_id] = root
            self._members.setdefault(root, set()).add(run_id)
            if len(self._roots) > MAX_LIVE:
                self._forget(next(iter(self._members)))

    def _ended(self, run_id: UUID) -> None:
        """A cancelled tool's end is never told; the end of its root sweeps it away."""
        with self._lock:
            root = self._roots.pop(run_id, None)
            if root is None:
                return
            members = self._members.get(root, set())
            members.discard(run_id)
            if root == run_id or not members:
                self._forget(root)

    def _forget(self, root: UUID) -> None:
        for member in self._members.pop(root, ()):
            self._roots.pop(member, None)

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **_: Any
    ) -> None:
        self._began(run_id, parent_run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        self._ended(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._ended(run_id)

    def on_tool_start(
        self, serialized: Any, input_str: str, *, run_id: UUID, parent_run_id: UUID | None = None, **_: Any
    ) -> None:
        self._began(run_id, parent_run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:
        self._ended(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._ended(run_id)

    def after_fork_in_child(self) -> None:
        """Another thread of the parent may have held the lock, and does not exist here."""
        self._lock = threading.Lock()


ROOTS = _Roots()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ROOTS.after_fork_in_child)
_everywhere: ContextVar[_Roots | None] = ContextVar("outrider_roots", default=ROOTS)
_registered = False


def watch() -> None:
    """Be present in every invocation from now on. LangChain keeps its hooks for ever, so it is registered once."""
    global _registered
    ROOTS.on = True
    if not _registered:
        _registered = True
        register_configure_hook(_everywhere, inheritable=True)


def unwatch() -> None:
    """Present still, and deaf."""
    ROOTS.on = False


def root_of(callbacks: Any) -> str:
    """The run of whoever holds these callbacks; empty for a tool that nobody's invocation surrounds."""
    parent = getattr(callbacks, "parent_run_id", None)
    return str(ROOTS.root_of(parent)) if isinstance(parent, UUID) else ""
