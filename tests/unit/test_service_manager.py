"""systemd is told how far the sidecar is, by its protocol, and is never waited for."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider import service_manager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """The socket of a manager, and what it puts into a service's environment."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@outrider-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1))
        listener.settimeout(5.0)
        yield listener, {"NOTIFY_SOCKET": name}


def test_a_message_reaches_the_manager(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """Over a socket in the file system and over an abstract one."""
    listener, env = manager
    service_manager.tell(service_manager.READY, env)
    assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("env", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_without_a_manager_nothing_happens(env: dict[str, str]) -> None:
    """A sidecar starts and ends all the same."""
    service_manager.tell(service_manager.READY, env)


def test_a_manager_that_reads_nothing_is_not_waited_for(tmp_path: Path) -> None:
    """Its socket's buffer fills; the loop that serves calls must not stand still for that."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        for _ in range(2000):
            service_manager.tell(service_manager.ALIVE, {"NOTIFY_SOCKET": str(tmp_path / "notify")})


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_meant_for_this_process_only(env: dict[str, str], expected: float | None) -> None:
    """A child that inherited the variables is not watched."""
    assert service_manager.watchdog_s(env) == expected


@pytest.mark.looptime
async def test_the_loop_reports_twice_in_each_period(tmp_path: Path) -> None:
    """One late report is not yet a silence."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "10000000"}
        alive = asyncio.create_task(service_manager.stay_alive(env))
        await asyncio.sleep(18.0)
        alive.cancel()
        heard = [listener.recv(100) for _ in range(4)]
        assert heard == [b"WATCHDOG=1"] * 4
        with pytest.raises(BlockingIOError):
            listener.recv(100)


async def test_nobody_watches_so_nothing_runs() -> None:
    """The task ends at once."""
    await asyncio.wait_for(service_manager.stay_alive({}), 5.0)
