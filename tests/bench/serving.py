"""What the small programs of the bench share: they serve on a free port of the loopback, print it, and end when their
standard input is closed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

Main = Callable[[], Coroutine[Any, Any, None]]


def run(main: Main) -> None:
    """Run ``main`` under uvloop where it is installed; it is what the sidecar uses, so everything else does too."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())


async def until_closed() -> None:
    """Return when nobody holds the other end of the standard input any more."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def readable() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            ended.set()

    loop.add_reader(sys.stdin.fileno(), readable)
    await ended.wait()


def say(text: object) -> None:
    """One line to whoever started this program."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
