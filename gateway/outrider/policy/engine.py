"""The CEL engine, without its command line.

The package's ``__init__`` imports an interactive shell (prompt_toolkit, pygments, rich): 30 MB and a third of a second
that a sidecar has no use for. Only its Rust extension is wanted, so only that is loaded. Where the package is laid out
otherwise, it is imported like any other.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

EXTENSION = "cel.cel"


def _extension() -> ModuleType:
    loaded = sys.modules.get(EXTENSION)
    if loaded is not None:
        return loaded
    package = find_spec("cel")
    spec = PathFinder.find_spec(EXTENSION, package.submodule_search_locations) if package else None
    if spec is None or spec.loader is None:
        return importlib.import_module("cel")
    module = module_from_spec(spec)
    sys.modules[EXTENSION] = module  # an `import cel` elsewhere then finds this one and loads no second
    spec.loader.exec_module(module)
    return module


_engine = _extension()
Context: Any = _engine.Context
compile: Any = _engine.compile
"""``compile(text)`` gives a Program: ``execute(context)``, ``references()``. Raises ValueError."""
