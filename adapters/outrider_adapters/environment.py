"""Where the sidecar is and who this process is, read from arguments and the environment.

OUTRIDER_URL          http://HOST:PORT, https://HOST:PORT or unix:/PATH of the data plane (default 127.0.0.1:7070)
OUTRIDER_TOKEN        this agent's token, or the one that all share; or OUTRIDER_TOKEN_FILE, a file that holds it (read
                      anew at each connect)
OUTRIDER_CA_FILE      PEM file of a private CA, for https
OUTRIDER_AGENT        the agent's name; may be left out where the token is the agent's own
OUTRIDER_CONNECT_WAIT how many seconds a call waits for a sidecar that does not answer (default 2)
OUTRIDER_TRANSPARENT  1: a tool's final failure reaches the framework as the tool raised it (default 0)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from outrider.errors import Fault, Misconfigured

DEFAULT_URL = "http://127.0.0.1:7070"
DEFAULT_WAIT_S = 2.0
MAX_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the one channel of this process is told. ``agent`` may be empty: whoever the token names, or anonymous."""

    url: str = DEFAULT_URL
    token: str = field(default="", repr=False)
    token_file: str = ""
    ca_file: str = ""
    agent: str = ""
    connect_wait_s: float = DEFAULT_WAIT_S
    transparent: bool = False
    """What a function raised or returned is given to the framework untouched, its final failure too; refusals and
    kills look as ever."""

    @property
    def socket_path(self) -> str:
        """The Unix socket, empty for TCP."""
        return self.url.removeprefix("unix:") if self.url.startswith("unix:") else ""

    @property
    def channel_url(self) -> str:
        """The address of the WebSocket; behind a Unix socket the host is a mere word."""
        base = "http://localhost" if self.socket_path else self.url
        return f"{base}/v1/channel"

    @property
    def names_itself(self) -> bool:
        """Whether its token says who it is: one made by `outrider tokens issue`, or a JWT."""
        token = self.bearer()
        return token.startswith("ort_") or token.count(".") == 2

    def bearer(self) -> str:
        """The token as it is now: a file may have been written anew. Raises OSError for an unreadable file."""
        return self.token or Path(self.token_file).read_text(encoding="utf-8").strip()


def read(
    env: Mapping[str, str] | None = None, *, url: str | None = None, token: str | None = None, agent: str | None = None
) -> Surroundings:
    """Arguments win over the environment. Raises Misconfigured with every fault found."""
    env = os.environ if env is None else env
    faults: list[Fault] = []
    address = _url(url or env.get("OUTRIDER_URL") or DEFAULT_URL, faults)
    literal = token or env.get("OUTRIDER_TOKEN", "")
    file = "" if literal else env.get("OUTRIDER_TOKEN_FILE", "")
    _check_token(literal.strip(), file, faults)
    ca_file = env.get("OUTRIDER_CA_FILE", "")
    if ca_file and not Path(ca_file).is_file():
        faults.append(_fault("OUTRIDER_CA_FILE", f"names no file: {ca_file}", "give the PEM file of the CA"))
    wait_s = _wait(env.get("OUTRIDER_CONNECT_WAIT", ""), faults)
    transparent = _flag("OUTRIDER_TRANSPARENT", env, faults)
    if faults:
        raise Misconfigured(faults)
    name = agent or env.get("OUTRIDER_AGENT", "")
    return Surroundings(address, literal.strip(), file, ca_file, name, wait_s, transparent)


def _fault(path: str, message: str, fix: str) -> Fault:
    return Fault("environment", 0, path, message, fix)


def _url(text: str, faults: list[Fault]) -> str:
    text = text.strip().rstrip("/")
    if text.startswith("unix:"):
        if not text.removeprefix("unix:").startswith("/"):
            faults.append(_fault("OUTRIDER_URL", f"'{text}' names no absolute path", "write unix:/path/to/socket"))
        return text
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query:
        faults.append(
            _fault(
                "OUTRIDER_URL",
                f"'{text}' is not the address of a sidecar",
                "write http://HOST:PORT, https://HOST:PORT or unix:/path/to/socket",
            )
        )
    return text


def _check_token(literal: str, file: str, faults: list[Fault]) -> None:
    if literal:
        return
    if not file:
        fix = "set OUTRIDER_TOKEN, or OUTRIDER_TOKEN_FILE to the file of the agent's token or to DATA/agent.token"
        faults.append(_fault("OUTRIDER_TOKEN", "is not set, so no sidecar will take this process's calls", fix))
        return
    try:
        empty = not Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        fix = "give the sidecar's DATA/agent.token, readable by this user"
        faults.append(_fault("OUTRIDER_TOKEN_FILE", f"cannot be read: {error.strerror}: {file}", fix))
        return
    if empty:
        faults.append(_fault("OUTRIDER_TOKEN_FILE", f"is empty: {file}", "give the sidecar's DATA/agent.token"))


def _wait(text: str, faults: list[Fault]) -> float:
    try:
        seconds = float(text or DEFAULT_WAIT_S)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_S:
        fix = f"write a number of seconds between 0 and {MAX_WAIT_S:g}"
        faults.append(_fault("OUTRIDER_CONNECT_WAIT", f"'{text}' is not a wait", fix))
    return seconds


def _flag(name: str, env: Mapping[str, str], faults: list[Fault]) -> bool:
    text = env.get(name, "").strip()
    if text not in {"", "0", "1"}:
        faults.append(_fault(name, f"'{text}' is neither 0 nor 1", "write 1 to switch it on, 0 or nothing for off"))
    return text == "1"
