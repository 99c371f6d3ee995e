"""What ``serve`` is told: listeners, the data folder, identity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from outrider.errors import Misconfigured

Enforcement = Literal["cooperative", "network"]
"""What keeps an agent from a tool behind Outrider: its cooperation, or that there is no other way."""


@dataclass(frozen=True, slots=True)
class Address:
    """``host:port``; port 0 asks the system for a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Address:
        """``127.0.0.1:7070`` or ``[::1]:7070``. Raises Misconfigured with the option's name."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535 or not host:
            raise Misconfigured(f"{option} '{text}' is not HOST:PORT. Write for example 127.0.0.1:7070.")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of one listener; empty means plain text."""

    cert_file: str = ""
    key_file: str = ""


MAX_PEERS = 100


@dataclass(frozen=True, slots=True)
class Peers:
    """The other sidecars. ``dns`` is the host and port of a name behind which they all are, this one too. ``timeout_s``
    bounds every wait for one of them. ``secret_file`` None: the people's token."""

    addresses: tuple[Address, ...] = ()
    dns: Address | None = None
    secret_file: Path | None = None
    ca_file: str = ""
    timeout_s: float = 3.0

    def __bool__(self) -> bool:
        """Whether there are to be any."""
        return bool(self.addresses) or self.dns is not None


@dataclass(frozen=True, slots=True)
class Settings:
    """``uds`` is the Unix socket of the data plane, empty for none. ``drain_timeout_s`` bounds SIGTERM's drain.

    ``token_dir`` is a folder shared with agents, into which a copy of their token is written. ``enforcement`` is the
    word of whoever deploys this: only they know whether an agent could reach the upstreams by another way.
    """

    policy: Path
    data: Path
    listen: Address = Address("127.0.0.1", 7070)
    control: Address = Address("127.0.0.1", 7071)
    uds: str = ""
    listen_tls: Tls = Tls()
    control_tls: Tls = Tls()
    drain_timeout_s: float = 25.0
    token_dir: Path | None = None
    enforcement: Enforcement = "cooperative"
    peers: Peers = Peers()

    @property
    def agent_token_file(self) -> Path:
        return self.data / "agent.token"

    @property
    def admin_token_file(self) -> Path:
        return self.data / "admin.token"

    @property
    def metrics_token_file(self) -> Path:
        """Optional, made by a person: a token that may read ``/metrics`` and nothing else."""
        return self.data / "metrics.token"

    @property
    def kill_file(self) -> Path:
        return self.data / "KILL"

    @property
    def listeners_file(self) -> Path:
        """Where the running sidecar writes its addresses, so that the command line finds it by ``--data``."""
        return self.data / "listeners.json"
