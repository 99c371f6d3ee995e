"""Where the sidecar is: by its data folder, or by the environment. Standard library only.

    --data DIR                 DIR/listeners.json (written by the running sidecar), DIR/agent.token, DIR/admin.token
    OUTRIDER_URL               the data plane: http://HOST:PORT, https://HOST:PORT or unix:/PATH
    OUTRIDER_CONTROL_URL       the control plane: http://HOST:PORT or https://HOST:PORT
    OUTRIDER_TOKEN             an agent's token, or OUTRIDER_TOKEN_FILE
    OUTRIDER_ADMIN_TOKEN       the people's token, or OUTRIDER_ADMIN_TOKEN_FILE
    OUTRIDER_DATA              the data folder where neither is given; then ./outrider-data
    OUTRIDER_CA_FILE           PEM file of a private CA, for https

``--data`` wins over the environment.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outrider.cli.fault import CliError

DEFAULT_DATA = Path("outrider-data")
DEFAULT_POLICY = Path("policy")
LISTENERS = "listeners.json"


@dataclass(frozen=True, slots=True)
class Place:
    """One listener of a sidecar. ``told_by`` says where the address comes from, ``data`` the folder where known."""

    url: str
    token: str = field(repr=False)
    told_by: str
    data: Path | None = None


def data_folder(data: Path | None) -> Path:
    """The data folder that is meant."""
    return data if data is not None else Path(os.environ.get("OUTRIDER_DATA") or DEFAULT_DATA)


def control_plane(data: Path | None) -> Place:
    """Where people ask. Raises CliError."""
    return _place(data, "OUTRIDER_CONTROL_URL", "OUTRIDER_ADMIN_TOKEN", "control", "admin.token")


def data_plane(data: Path | None) -> Place:
    """Where agents call. Raises CliError."""
    return _place(data, "OUTRIDER_URL", "OUTRIDER_TOKEN", "listen", "agent.token")


def _place(data: Path | None, url_name: str, token_name: str, listener: str, token_file: str) -> Place:
    url = os.environ.get(url_name, "")
    if data is None and url:
        folder = Path(os.environ["OUTRIDER_DATA"]) if os.environ.get("OUTRIDER_DATA") else None
        return Place(url.rstrip("/"), _token(token_name, folder, token_file), url_name, folder)
    folder = data_folder(data)
    url = listener_url(folder, listener, url_name)
    told_by = str(folder / LISTENERS)
    return Place(url, _token("" if data else token_name, folder, token_file), told_by, folder)


def _listeners(folder: Path, url_name: str) -> dict[str, Any]:
    path = folder / LISTENERS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not folder.is_dir():
            raise CliError(
                f"there is no data folder {folder}.",
                f"name the folder of `outrider serve --data` with --data, or set {url_name}.",
            ) from None
        raise CliError(
            f"no sidecar runs on the data folder {folder} ({LISTENERS} is not there).",
            f"start one: outrider serve --policy DIR --data {folder}",
        ) from None
    except (OSError, ValueError) as error:
        raise CliError(f"{path} cannot be read: {error}.", f"set {url_name}, or restart the sidecar.") from None
    if not isinstance(found, dict):
        raise CliError(f"{path} is not what a sidecar writes.", f"set {url_name}, or restart the sidecar.")
    return found


def listener_url(folder: Path, listener: str, url_name: str) -> str:
    """The address that the sidecar on this folder wrote. ``listener``: ``listen``, ``control``. Raises CliError."""
    found = _listeners(folder, url_name)
    scheme = "https" if found.get(f"{listener}_tls") else "http"
    host, _, port = str(found.get(listener, "")).rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104  # it listens everywhere: ask here
    return f"{scheme}://{here}:{port}"


def _token(name: str, folder: Path | None, token_file: str) -> str:
    """From the environment, from a file that it names, or from the data folder."""
    if name and (token := os.environ.get(name, "").strip()):
        return token
    named = os.environ.get(f"{name}_FILE", "") if name else ""
    path = Path(named) if named else None if folder is None else folder / token_file
    if path is None:
        raise CliError(f"there is no token to ask with: {name} is not set.", f"set {name} or {name}_FILE.")
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        fix = "run this as the user of the sidecar" + (f", or set {name}." if name else ".")
        raise CliError(f"the token file {path} cannot be read: {error.strerror}.", fix) from None
