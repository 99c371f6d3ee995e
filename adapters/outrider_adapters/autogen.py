"""AutoGen (autogen-agentchat and autogen-core): one line governs every tool call of the process.

    from outrider_adapters import autogen
    autogen.install(agent="researcher")

The seams are the lowest public methods that execute a tool, of tools (``run_json``, ``run_json_stream``) and of
workbenches (``call_tool``); every path ends in one of them, whenever the agent was built. ``autogen_seams.py`` has the
list. AutoGen is imported by ``install()``, not before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar, cast

from outrider.errors import Misconfigured
from outrider_adapters import environment, framework, process, versions
from outrider_adapters import governed as plain
from outrider_adapters.autogen_calls import TOOL_KEY, settings
from outrider_adapters.autogen_runs import Killed, ToolFailed
from outrider_adapters.autogen_seams import CLASSES, Seams
from outrider_adapters.governed import governed, run

__all__ = ["SUPPORTED", "Killed", "ToolFailed", "govern", "governed", "install", "run", "uninstall"]

SUPPORTED = versions.AUTOGEN
"""The versions this adapter was tested for: package → (from, below)."""
T = TypeVar("T")
_lock = threading.RLock()
_seams = Seams()
_told: tuple[Any, ...] = ()
_provisional = False


def install(
    agent: str | None = None, *, url: str | None = None, token: str | None = None, subagents: bool = False
) -> None:
    """Govern every tool call of this process from now on, also of agents, teams and tools that exist already.

    Args:
        agent: the name that policies and kills know this process by; else OUTRIDER_AGENT; else the names of the agents
            themselves (``AssistantAgent(name)``), ``anonymous`` where there is none.
        url: the sidecar's data plane; else OUTRIDER_URL; else http://127.0.0.1:7070.
        token: the agent's own token or the shared one; else OUTRIDER_TOKEN or OUTRIDER_TOKEN_FILE.
        subagents: an agent's calls carry its own name instead of ``agent``.

    Begins to connect and does not wait for it. Installing twice with the same settings does nothing.

    Raises:
        Misconfigured: no token, an address that is none, a version of AutoGen that this adapter was not made for, or
            another install with other settings before.
    """
    _begin(agent, url, token, subagents)
    _patch()


def install_provisionally() -> None:
    """For ``outrider run``: a module of AutoGen was executed, others may be half-way. What is there is governed from
    now on, and nothing of AutoGen is imported; an ``install()`` of the program's own may still say otherwise."""
    if not settings.every_tool:
        _begin(provisional=True)
    with _lock:
        for module in CLASSES:
            _seams.cover(module)


def _begin(
    agent: str | None = None,
    url: str | None = None,
    token: str | None = None,
    subagents: bool = False,
    provisional: bool = False,
) -> None:
    """All of ``install`` but the patching."""
    global _told, _provisional
    found = versions.check(__name__, SUPPORTED)
    surroundings = environment.read(url=url, token=token, agent=framework.operators_choice(agent))
    told = surroundings, subagents
    with _lock:
        if settings.every_tool and not _provisional:
            if told != _told:
                raise Misconfigured("already installed with other settings; call uninstall() first")
            return
        process.configure(surroundings, __name__, "autogen", found["autogen-agentchat"])
        _told, _provisional, settings.every_tool = told, provisional, True
        settings.agent, settings.subagents = surroundings.agent, subagents or not surroundings.agent


def uninstall() -> None:
    """Tools run ungoverned again, but for those of ``govern()``. Calls under way end as they began: governed."""
    global _told
    with _lock:
        if not settings.every_tool:
            return
        settings.every_tool, settings.agent, settings.subagents, _told = False, "", False, ()
        if not settings.some_tools:
            _seams.undo()
    process.release(__name__, "autogen")


def govern(tool: T, *, name: str = "") -> T:
    """Govern one tool or one workbench, without ``install``; with it, merely name the tool. Returns the same object;
    for a plain function its governed twin.

    ``name`` is ``group.operation``. With the group of an HTTP upstream the call goes there, and the tool's own
    function never runs. A workbench has many tools, so it takes no name. Raises Misconfigured like ``install``.
    """
    versions.check(__name__, SUPPORTED)
    from autogen_core.tools import BaseTool, Workbench

    thing: Any = tool
    if isinstance(thing, Workbench):
        if name:
            raise Misconfigured(f"a workbench has many tools, and cannot be named {name!r}; leave the name out")
        for one in getattr(thing, "_tools", ()):
            govern(one)
        setattr(thing, TOOL_KEY, "")
    elif isinstance(thing, BaseTool):
        if name or not hasattr(thing, TOOL_KEY):
            setattr(thing, TOOL_KEY, plain.tool_name(name or thing.name))
    else:
        return cast(T, plain.govern(cast(Callable[..., Any], tool), name=name))
    with _lock:
        settings.some_tools = True
        _patch()
    return tool


def _patch() -> None:
    for module in CLASSES:
        import_module(module)
        _seams.cover(module)
