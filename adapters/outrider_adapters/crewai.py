"""CrewAI: one line governs every tool call of the process.

    from outrider_adapters import crewai
    crewai.install(agent="researcher")

The seam is the public methods that execute a tool: ``run`` and ``arun`` of BaseTool and Tool (native function calling,
flows, direct calls), ``invoke`` and ``ainvoke`` of CrewStructuredTool (ReAct). CrewAI's hooks fail open, so they only
tell who calls, and carry a kill to where it ends the crew.

Importing this file imports nothing of CrewAI, which takes seconds: ``install`` does, or the first look at ``Killed``.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from outrider.errors import Misconfigured
from outrider_adapters import environment, framework, process, versions
from outrider_adapters import governed as plain
from outrider_adapters.governed import governed, run

if TYPE_CHECKING:
    from types import ModuleType

    from outrider_adapters.crewai_calls import Killed

__all__ = ["SUPPORTED", "Killed", "govern", "governed", "install", "run", "uninstall"]

SUPPORTED = versions.CREWAI
"""The versions this adapter was tested for: package → (from, below)."""
T = TypeVar("T")


class _Installed:
    """What was asked for. ``provisional``: by ``outrider run``, so that the program's own word may still follow."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.settings: tuple[Any, ...] = ()
        self.provisional = False


_installed = _Installed()


def install(
    agent: str | None = None, *, url: str | None = None, token: str | None = None, subagents: bool = False
) -> None:
    """Govern every tool call of this process from now on, also of crews, agents and tools that exist already.

    Args:
        agent: the name that policies and kills know this process by; else OUTRIDER_AGENT; else the agents' roles,
            ``anonymous`` where no agent calls.
        url: the sidecar's data plane; else OUTRIDER_URL; else http://127.0.0.1:7070.
        token: the agent's own token or the shared one; else OUTRIDER_TOKEN or OUTRIDER_TOKEN_FILE.
        subagents: an agent's calls carry its role instead of ``agent``.

    Begins to connect and does not wait for it. Installing twice with the same settings does nothing.

    Raises:
        Misconfigured: no token, an address that is none, a version of CrewAI that this adapter was not made for, or
            another install with other settings before.
    """
    _install(agent, url, token, subagents, provisional=False)


def install_provisionally() -> None:
    """``outrider run`` installs when the program imports CrewAI; the program may still say more. Raises as above."""
    _install(None, None, None, False, provisional=True)


def _install(agent: str | None, url: str | None, token: str | None, subagents: bool, *, provisional: bool) -> None:
    found = versions.check("outrider_adapters.crewai", SUPPORTED)
    surroundings = environment.read(url=url, token=token, agent=framework.operators_choice(agent))
    settings = (surroundings, subagents)
    seam = _heavy("crewai_seam")  # outside the lock: under `outrider run` the import installs too
    with _installed.lock:
        if _installed.settings and (provisional or settings == _installed.settings):
            _installed.provisional = _installed.provisional and provisional
            return
        if _installed.settings and not _installed.provisional:
            raise Misconfigured("already installed with other settings; call uninstall() first")
        process.configure(surroundings, __name__, "crewai", found["crewai"])
        seam.begin(agent=surroundings.agent, roles=subagents or not surroundings.agent)
        _installed.settings, _installed.provisional = settings, provisional


def uninstall() -> None:
    """Tools run ungoverned again, but for those of ``govern()``. Calls under way end as they began: governed."""
    with _installed.lock:
        if not _installed.settings:
            return
        _installed.settings = ()
        _heavy("crewai_seam").end()
    process.release(__name__, "crewai")


def govern(tool: T, *, name: str = "") -> T:
    """Govern one tool, without ``install``; with it, merely name it. Returns the same tool object; for a plain
    function its governed twin.

    ``name`` is ``group.operation``. With the group of an HTTP upstream the call goes there, and the tool's own
    function never runs. Raises Misconfigured like ``install``.
    """
    if "crewai" in sys.modules and _heavy("crewai_calls").is_tool(tool):
        versions.check("outrider_adapters.crewai", SUPPORTED)
        with _installed.lock:
            _heavy("crewai_seam").govern_one(tool, name)
        return tool
    return cast(T, plain.govern(cast(Callable[..., Any], tool), name=name))


def _heavy(module: str) -> ModuleType:
    """A module that needs CrewAI. CrewAI goes first: under `outrider run` its import installs, and must not meet ours
    half-way."""
    importlib.import_module("crewai")
    return importlib.import_module(f"outrider_adapters.{module}")


def __getattr__(name: str) -> Any:
    """``Killed`` is one of CrewAI's own exceptions too, so it is made when CrewAI is there."""
    if name == "Killed":
        return _heavy("crewai_calls").Killed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
