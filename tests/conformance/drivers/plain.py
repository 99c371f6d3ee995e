"""The reference client: plain functions under ``governed``, called by a loop that follows the script."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from outrider.errors import CallError, Code
from outrider.testing.conformance.driver import Ask, Driver, Ran, Told, Tool, Turns
from outrider_adapters.governed import govern, run


class Killed(Exception):
    """A kill ends the run."""


class PlainDriver(Driver):
    framework = "python"
    not_offered = {"mixed": "a plain function that is called on a loop blocks the loop, governed or not"}

    def install(self) -> None:
        """Nothing to install: every function is governed by itself."""

    def run(self, tools: Sequence[Tool], turns: Turns) -> Ran:
        functions = _governed(tools)
        told: list[Told] = []
        with run(uuid.uuid4().hex), ThreadPoolExecutor(10) as pool:
            try:
                for turn in turns:
                    waits = [pool.submit(contextvars.copy_context().run, _call, functions, ask) for ask in turn]
                    told += [wait.result() for wait in waits]
            except Killed as killed:
                return Ran(told, killed=str(killed))
        return Ran(told)

    async def arun(self, tools: Sequence[Tool], turns: Turns) -> Ran:
        functions = _governed(tools)
        told: list[Told] = []
        with run(uuid.uuid4().hex):
            try:
                for turn in turns:
                    told += await asyncio.gather(*(_acall(functions, ask) for ask in turn))
            except Killed as killed:
                return Ran(told, killed=str(killed))
        return Ran(told)


def _governed(tools: Sequence[Tool]) -> dict[str, Any]:
    return {tool.name: govern(tool.function, name=tool.governed_as or tool.name) for tool in tools}


def _call(functions: dict[str, Any], ask: Ask) -> Told:
    try:
        return Told("result", _text(functions[ask.tool](**ask.args)))
    except CallError as error:
        return _failure(error)


async def _acall(functions: dict[str, Any], ask: Ask) -> Told:
    try:
        return Told("result", _text(await functions[ask.tool](**ask.args)))
    except CallError as error:
        return _failure(error)


def _failure(error: CallError) -> Told:
    if error.code == Code.KILLED:
        raise Killed(str(error))
    return Told("failure", str(error))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
