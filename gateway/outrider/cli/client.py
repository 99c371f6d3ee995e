"""Asks a sidecar over HTTP or its Unix socket. Standard library only, so that a command starts fast."""

from __future__ import annotations

import getpass
import http.client
import json
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from outrider.cli.fault import CliError
from outrider.cli.place import Place

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: JSON where it says so, else text."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connect(url: str, timeout_s: float, tls: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    """A connection to ``http://…``, ``https://…`` or ``unix:/path``. Raises CliError for any other text."""
    if url.startswith("unix:"):
        return UnixConnection(url.removeprefix("unix:"), timeout_s)
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme not in ("http", "https") or not host:
        raise CliError(f"'{url}' is not the address of a sidecar.", "write http://HOST:PORT or unix:/PATH.", 2)
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    context = tls or ssl.create_default_context(cafile=os.environ.get("OUTRIDER_CA_FILE") or None)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


class Client:
    """Asks one listener."""

    def __init__(self, place: Place, timeout_s: float = TIMEOUT_S) -> None:
        self.place = place
        self._timeout_s = timeout_s

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The body of a good answer. Raises CliError."""
        given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        return self.expect("GET", f"{path}?{urlencode(given)}" if given else path)

    def expect(self, method: str, path: str, body: Any = None) -> Any:
        """The body of a good answer; a problem becomes a CliError."""
        answer = self.ask(method, path, body)
        if not answer.ok:
            raise refusal(answer)
        return answer.body

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Any answer. Raises CliError where there is none."""
        try:
            return self._exchange(method, path, body, headers or {})
        except ssl.SSLCertVerificationError as error:
            fix = "set OUTRIDER_CA_FILE to the CA's PEM file, and ask for a name that the certificate has."
            raise CliError(
                f"the certificate of {self.place.url} is not trusted: {error.verify_message}.", fix
            ) from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise CliError(
                f"no sidecar answers at {self.place.url} (told by {self.place.told_by}): {why}.", self._mend()
            ) from None

    def _mend(self) -> str:
        if self.place.data is None:
            return "start the sidecar, or correct the address."
        return f"start the sidecar. To stop every call without it: touch {self.place.data / 'KILL'}"

    def _exchange(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        connection = connect(self.place.url, self._timeout_s)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {**self._headers(data), **headers})
            response = connection.getresponse()
            return Answer(response.status, _read(response), dict(response.getheaders()))
        finally:
            connection.close()

    def _headers(self, data: bytes | None) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self.place.token}", "Outrider-Actor": _who()}
        return headers if data is None else headers | {"Content-Type": "application/json"}


def _read(response: http.client.HTTPResponse) -> Any:
    raw = response.read(MAX_ANSWER_BYTES)
    if "json" not in (response.getheader("Content-Type") or ""):
        return raw.decode("utf-8", "replace")
    try:
        return json.loads(raw)
    except ValueError:
        if response.status >= 400:
            return raw.decode("utf-8", "replace")
        raise CliError("the sidecar's answer is not whole.", "ask again, for less at once.") from None


def _who() -> str:
    """The person, as the system knows them: for the ledger, beside the token."""
    try:
        return getpass.getuser().encode("ascii", "replace").decode()
    except (OSError, KeyError):
        return ""


def refusal(answer: Answer) -> CliError:
    """A problem of the sidecar as an error of this command."""
    if not isinstance(answer.body, dict):
        return CliError(f"the sidecar answered {answer.status}.", "is this the address of a sidecar?")
    problem = answer.body
    lines = [f"{problem.get('detail') or problem.get('title', '')} ({problem.get('code', answer.status)})"]
    lines += [f"  {fault}" for fault in problem.get("faults", [])]
    told = "outrider tokens" in lines[0]  # by the sidecar itself, how to get one
    fix = "use the token of this sidecar: --data DIR, or the environment." if answer.status == 401 and not told else ""
    return CliError("\n".join(lines), fix)
