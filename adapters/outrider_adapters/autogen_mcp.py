"""Two things that AutoGen's workbench for MCP servers loses: why a call failed, and that it was cancelled."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outrider_adapters.autogen_calls import Given

MODULE = "autogen_ext.tools.mcp._workbench"
_last_error: ContextVar[tuple[str, Exception] | None] = ContextVar("outrider_autogen_mcp_error", default=None)


def is_mcp(workbench: Any) -> bool:
    """Whether it is an McpWorkbench; its module is not imported for the question."""
    module = sys.modules.get(MODULE)
    kind = getattr(module, "McpWorkbench", None)
    return kind is not None and isinstance(workbench, kind)


def noting(original: Callable[..., str]) -> Callable[..., str]:
    """``_format_errors``: it makes a text of an exception that nobody sees afterwards. A lost connection must be told
    from a server's own "no": after the one the call may have run."""

    @functools.wraps(original)
    def format_errors(self: Any, error: Exception) -> str:
        text = original(self, error)
        _last_error.set((text, error))
        return text

    return format_errors


def error_behind(result: Any) -> Exception | None:
    """The exception that this error result was made of, if it was made of one."""
    last = _last_error.get()
    return last[1] if last is not None and last[0] == result.to_text() else None


def with_own_token(given: Given) -> Given:
    """The workbench links its token to a coroutine, which cannot be cancelled: ``CancellationToken.cancel()`` would
    raise AttributeError at the program. So it gets a token that nobody cancels, and the call's task is cancelled."""
    from autogen_core import CancellationToken

    return given.having("cancellation_token", CancellationToken())
