"""Counts how often the bodies of tools run, and how often no governed call surrounds them: what went round the seam.

It stands below every seam, at the methods that a tool's author writes. Functions that a framework calls without such a
method between (CrewAI's ``Tool.func``) it does not see.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from outrider_adapters.work import INSIDE

BODIES = {
    "langgraph": ("langchain_core.tools", "BaseTool", ("_run", "_arun")),
    "crewai": ("crewai.tools", "BaseTool", ("_run", "_arun")),
    "autogen": ("autogen_core.tools", "BaseTool", ("run", "run_stream")),
}
"""framework → module, class, methods."""
FUNCTIONS = {"autogen": ("autogen_core.tools", "FunctionTool", "_func")}
"""framework → module, class, attribute: tools whose body is a function that they were given. Their own ``run`` is not
counted: the adapter may stand in for it."""


class Witness:
    """How many bodies each test ran inside a governed call, and how many outside of all."""

    def __init__(self, framework: str) -> None:
        module, name, self.methods = BODIES[framework]
        self.governed: Counter[str] = Counter()
        self.direct: Counter[str] = Counter()
        self._holders: list[type] = []
        if framework in FUNCTIONS:
            self._watch_functions(*FUNCTIONS[framework])
        base = getattr(importlib.import_module(module), name)
        self._watch_later(base)
        self._watch(base)

    def _watch_functions(self, module: str, name: str, attribute: str) -> None:
        holder: Any = getattr(importlib.import_module(module), name)
        before = holder.__init__

        @functools.wraps(before)
        def init(tool: Any, *args: Any, **kwargs: Any) -> None:
            before(tool, *args, **kwargs)
            setattr(tool, attribute, self._counted(getattr(tool, attribute)))

        holder.__init__ = init
        self._holders.append(holder)

    def _watch_later(self, base: type) -> None:
        before = base.__init_subclass__.__func__  # type: ignore[attr-defined]

        def init_subclass(cls: type, **kwargs: Any) -> None:
            before(cls, **kwargs)
            self._wrap(cls)

        base.__init_subclass__ = classmethod(init_subclass)  # type: ignore[assignment]

    def _watch(self, cls: type) -> None:
        self._wrap(cls)
        for below in cls.__subclasses__():
            self._watch(below)

    def _wrap(self, cls: type) -> None:
        if cls in self._holders:
            return
        for name in self.methods:
            body = cls.__dict__.get(name)
            if inspect.isfunction(body) and not getattr(body, "__isabstractmethod__", False):
                setattr(cls, name, self._counted(body))

    def _counted(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Of the same kind: frameworks ask whether a body is a coroutine function."""
        if inspect.isasyncgenfunction(body):

            @functools.wraps(body)
            async def streams(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                self._note()
                async for item in body(*args, **kwargs):
                    yield item

            return streams
        if inspect.iscoroutinefunction(body):

            @functools.wraps(body)
            async def awaits(*args: Any, **kwargs: Any) -> Any:
                self._note()
                return await body(*args, **kwargs)

            return awaits

        @functools.wraps(body)
        def runs(*args: Any, **kwargs: Any) -> Any:
            self._note()
            return body(*args, **kwargs)

        return runs

    def _note(self) -> None:
        counter = self.direct if INSIDE.get() is None else self.governed
        counter[os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]] += 1
