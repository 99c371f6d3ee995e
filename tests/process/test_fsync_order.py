"""The order of disk and network as the kernel saw it: intent, send, end, answer."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from outrider.testing.gateway import GatewayProcess
from outrider.testing.upstream_process import UpstreamProcess
from tests.support.eventually import eventually

STRACE = shutil.which("strace")
WATCHED = "fsync,fdatasync,pwrite64,write,sendto,sendmsg,writev"
# Linux only, and a tool that Python cannot bring: .ci/run installs it, so that CI always runs this.
pytestmark = pytest.mark.skipif(
    STRACE is None or not sys.platform.startswith("linux"), reason="needs strace, which is not installed here"
)


def trace(gateway: GatewayProcess, folder: Path, tool: str) -> list[str]:
    """The system calls of the sidecar during one call, in order."""
    gateway.call(tool, {"n": 0}, run="warm")
    log = folder / "strace"
    command = [str(STRACE), "-f", "-tt", "-e", f"trace={WATCHED}", "-s", "24", "-p", str(gateway.pid), "-o", str(log)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    time.sleep(0.3)
    assert gateway.call(tool, {"n": 1}, run="traced")[0] == 200
    assert eventually(lambda: "HTTP/1.1 200" in log.read_text())
    tracer.terminate()
    tracer.wait(timeout=10)
    return log.read_text().splitlines()


def first(lines: list[str], pattern: str, after: int = 0) -> int:
    found = [n for n, line in enumerate(lines) if n >= after and re.search(pattern, line)]
    assert found, f"{pattern} not seen in:\n" + "\n".join(lines)
    return found[0]


def test_the_intent_is_fsynced_before_the_send(
    outrider_gateway: Any, scripted_upstream: UpstreamProcess, tmp_path: Path
) -> None:
    """fdatasync → request → answer. (The end is copied to memory that outlives the process: test_ledger_crash.)"""
    policy = {
        "upstreams": {"up": {"http": {"url": scripted_upstream.url}}},
        "tools": [{"match": "up.write", "effect": "write"}],
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }
    lines = trace(outrider_gateway(policy), tmp_path, "up.write")
    synced = first(lines, r"f(data)?sync\(.*= 0|f(data)?sync resumed")
    sent = first(lines, r'"POST /write')
    answered = first(lines, r'"HTTP/1.1 200')
    assert synced < sent < answered
