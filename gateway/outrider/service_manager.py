"""Tells systemd how far the sidecar is (``Type=notify``), and that its loop turns (``WatchdogSec=``); else nothing.

The protocol is one datagram for each message to the socket that ``NOTIFY_SOCKET`` names; no library is needed for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def tell(message: str, env: Mapping[str, str] = os.environ) -> None:
    """Send it where there is somebody to tell. Never raises and never waits: a sidecar needs no manager to run."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(message.encode(), target)


def watchdog_s(env: Mapping[str, str] = os.environ) -> float | None:
    """After how long a silence the manager takes this process for hung; None where it does not watch."""
    text, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 1e6


async def stay_alive(env: Mapping[str, str] = os.environ) -> None:
    """Say so twice in each period, from the very loop that serves calls. Runs until cancelled, or ends at once."""
    period_s = watchdog_s(env)
    while period_s is not None:
        tell(ALIVE, env)
        await asyncio.sleep(period_s / 2)
