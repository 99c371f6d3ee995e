"""What ``outrider run`` sets in motion in the program's process: an adapter for each framework that gets imported.

At the moment a framework's module has been executed, others of it may still be half-way; so nothing of the framework
is imported here. The seam gets a stand-in that installs the adapter on the first call and then steps aside. What can
be known before (settings, versions) is checked at once: a program that cannot be governed does not start.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

from outrider_adapters import environment, process, versions

_installing = threading.RLock()


def langchain_core() -> None:
    """``langchain_core.tools.base`` was imported. Raises Misconfigured."""
    found = versions.check("outrider run", versions.LANGGRAPH)
    module = sys.modules["langchain_core.tools.base"]
    process.configure(environment.read(), "outrider_adapters.langgraph", "langgraph", found["langgraph"])
    tool_class = module.BaseTool
    tool_class.run = _stand_in(tool_class, "run", tool_class.run)
    tool_class.arun = _async_stand_in(tool_class, "arun", tool_class.arun)


def crewai() -> None:
    """The package ``crewai`` was imported, and with it all of the seam; its hooks must be there before the first call,
    so nothing waits. Raises Misconfigured."""
    from outrider_adapters import crewai as adapter

    adapter.install_provisionally()


def autogen() -> None:
    """A module of AutoGen that holds a seam was imported; the first of them checks what can be checked before. Raises
    Misconfigured."""
    from outrider_adapters import autogen as adapter

    adapter.install_provisionally()


def _install() -> None:
    """Late, when every import is done. The adapter takes the stand-ins away."""
    from outrider_adapters import langgraph

    with _installing:
        langgraph.install()


def _stand_in(owner: Any, name: str, behind: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(behind)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        _install()
        return getattr(owner, name)(self, *args, **kwargs)

    method.__outrider_behind__ = behind  # type: ignore[attr-defined]
    return method


def _async_stand_in(owner: Any, name: str, behind: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(behind)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        _install()
        return await getattr(owner, name)(self, *args, **kwargs)

    method.__outrider_behind__ = behind  # type: ignore[attr-defined]
    return method
