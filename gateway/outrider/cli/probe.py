"""``outrider probe``: is the sidecar ready, is it alive? For exec probes; standard library only, so it starts fast.

Kubernetes cannot reach a loopback listener from outside the Pod, so its probes run this inside the container.
Where the address is the one that the sidecar wrote down itself, its certificate is not checked: that names the service
which agents ask for, not this address, and nothing secret is sent. An address that somebody gives is checked.
"""

from __future__ import annotations

import argparse
import http.client
import os
import ssl
import sys
from pathlib import Path

from outrider.cli.client import connect
from outrider.cli.place import data_folder, listener_url

DEFAULT_URL = "http://127.0.0.1:7070"
TIMEOUT_S = 1.0


def parser() -> argparse.ArgumentParser:
    """The options, for ``--help`` and the reference."""
    words = argparse.ArgumentParser(
        prog="outrider probe",
        description="Ask a sidecar whether it is ready or alive; for exec probes. Exit code 0 for yes, 1 for no.",
        allow_abbrev=False,
    )
    which = words.add_mutually_exclusive_group()
    which.add_argument("--ready", action="store_true", help="it takes calls (the default)")
    which.add_argument("--live", action="store_true", help="its process answers")
    words.add_argument("--url", help="the listener; default: --data, OUTRIDER_URL, OUTRIDER_DATA, then 127.0.0.1:7070")
    words.add_argument("--data", type=Path, metavar="DIR", help="the sidecar's data folder, which names its listener")
    words.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="how long to wait; default 1"
    )
    return words


def main(words: list[str]) -> int:
    """0: yes. 1: no, with a sentence on stderr."""
    given = parser().parse_args(words)
    named = given.url or (None if given.data else os.environ.get("OUTRIDER_URL"))
    url = named.rstrip("/") if named else _own(given.data)
    path = "/livez" if given.live else "/readyz"
    try:
        status, text = _ask(url, path, given.timeout, None if named else _unchecked())
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        print(f"outrider: no answer from {url}{path}: {why}", file=sys.stderr)
        return 1
    stream = sys.stdout if status == 200 else sys.stderr
    print(text.strip()[:200] or f"status {status}", file=stream)
    return 0 if status == 200 else 1


def _own(data: Path | None) -> str:
    """Where the sidecar of the data folder says that it listens."""
    if data is None and not os.environ.get("OUTRIDER_DATA"):
        return DEFAULT_URL
    return listener_url(data_folder(data), "listen", "OUTRIDER_URL")


def _unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _ask(url: str, path: str, timeout_s: float, context: ssl.SSLContext | None) -> tuple[int, str]:
    connection = connect(url, timeout_s, context)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(1000).decode("utf-8", "replace")
    finally:
        connection.close()
