"""Imported by Python itself when it starts, because ``outrider run`` put this folder first on PYTHONPATH.

Every Python process of the program's tree passes here, most of them no agents, some perhaps of another environment. So
this file needs nothing but the standard library, costs one meta-path finder, and acts only when a framework is
imported. There it fails closed: a framework that cannot be governed is not imported.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from types import ModuleType

ADAPTERS = {
    "langchain_core.tools.base": "langchain_core",
    "crewai": "crewai",
    "autogen_core.tools._base": "autogen",
    "autogen_core.tools._workbench": "autogen",
    "autogen_core.tool_agent._tool_agent": "autogen",
    "autogen_agentchat.agents._base_chat_agent": "autogen",
    "autogen_agentchat.agents._assistant_agent": "autogen",
    "autogen_agentchat.teams._group_chat._base_group_chat": "autogen",
}
"""The module that holds a framework's seam → the function of ``outrider_adapters.autoinstall`` that is told."""
HERE = Path(__file__).resolve().parent


class _Watcher(MetaPathFinder):
    """Lets the others find a framework's module, and adds a word behind its execution."""

    def __init__(self) -> None:
        self._looking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in ADAPTERS or fullname in self._looking:
            return None
        self._looking.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._looking.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader, ADAPTERS[fullname])
        return spec


class _Telling(Loader):
    """The module's own loader, and then the adapter."""

    def __init__(self, loader: Loader, adapter: str) -> None:
        self._loader = loader
        self._adapter = adapter

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        try:
            autoinstall = importlib.import_module("outrider_adapters.autoinstall")
        except ImportError as error:
            raise ImportError(
                f"`outrider run` started this program, but outrider is not installed in its Python ({sys.executable}): "
                f"{error}. Install it there: pip install outrider. Without it {module.__name__} would be ungoverned, "
                "so it is not imported.",
                name=module.__name__,
            ) from error
        getattr(autoinstall, self._adapter)()


def _next_in_line() -> None:
    """Run the sitecustomize that this one hides, if there is one."""
    path = [entry for entry in sys.path if entry and Path(entry).resolve() != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


sys.meta_path.insert(0, _Watcher())
_next_in_line()
