"""Where a driver's class is, so that another process finds it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import msgspec

from outrider.testing.conformance.driver import Driver


class DriverPlace(msgspec.Struct, frozen=True):
    """Where the driver's class is. The file counts where the module cannot be imported by its name."""

    module: str
    name: str
    file: str
    path: tuple[str, ...]

    @staticmethod
    def of(driver: Driver) -> DriverPlace:
        kind = type(driver)
        file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
        return DriverPlace(kind.__module__, kind.__qualname__, file, tuple(sys.path))

    def load(self) -> Driver:
        sys.path[:] = [*self.path, *(one for one in sys.path if one not in self.path)]
        found: Any = self._module()
        for name in self.name.split("."):
            found = getattr(found, name)
        driver: Driver = found()
        return driver

    def _module(self) -> Any:
        try:
            module = importlib.import_module(self.module)
        except ModuleNotFoundError:
            module = None
        if module is not None and getattr(module, "__file__", "") == self.file:
            return module
        spec = importlib.util.spec_from_file_location(self.module, self.file)
        assert spec is not None and spec.loader is not None
        module = sys.modules[self.module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
