"""A governed stream: items come as they are made; the last of them, the result, when the gateway has answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from outrider_adapters.autogen_calls import NOTHING, StreamCall, WorkbenchCall


async def stream(call: StreamCall | WorkbenchCall, original: Callable[..., Any]) -> AsyncIterator[Any]:
    """The items of a governed stream as they come, and the result when the gateway has answered. The items of a failed
    attempt are given out already when the next one begins; those of an abandoned one are not any more."""
    items: asyncio.Queue[Any] = asyncio.Queue()
    newest: list[object] = []

    async def attempt(changed: Mapping[str, Any]) -> Any:
        given = call.having(changed)
        mine = object()
        newest[:] = [mine]
        with call.execution():
            source = original(call.holder, *given.args, **given.kwargs)
            return call.ended(await _hold_last(call, source, items, newest, mine))

    asking = asyncio.ensure_future(call.answer(call.work(ainvoke=attempt)))
    asking.add_done_callback(lambda _: items.put_nowait(NOTHING))
    try:
        while (item := await items.get()) is not NOTHING:
            yield item
        result = call.result_of(asking.result())
        if result is not NOTHING:
            yield result
    finally:
        if not asking.done():
            asking.cancel()
            await asyncio.wait([asking])


async def _hold_last(call: Any, source: Any, items: asyncio.Queue[Any], newest: list[object], mine: object) -> Any:
    held: Any = NOTHING
    async with contextlib.aclosing(source):
        async for item in source:
            if newest != [mine]:
                break
            if held is not NOTHING:
                items.put_nowait(held)
            held = item if call.final(item) else NOTHING
            if held is NOTHING:
                items.put_nowait(item)
    return held
