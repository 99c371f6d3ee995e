"""Several real sidecars that know each other."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from outrider.testing.gateway import GatewayProcess

SECRET = "what-the-sidecars-of-this-test-share"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, below those that the system gives out by itself: a sidecar that is away finds
    its own again."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


class Trio:
    """Sidecars, each listing all of them, itself included. They keep ports and data over restarts."""

    def __init__(
        self, folder: Path, policy: Any, count: int = 3, timeout_s: float = 3.0, extra: Sequence[str] = ()
    ) -> None:
        ports = free_ports(count)
        (folder / "secret").write_text(SECRET)
        self.addresses = [f"127.0.0.1:{port}" for port in ports]
        arguments = (
            *("--peers", ",".join(self.addresses), "--peer-secret", str(folder / "secret")),
            *("--peer-timeout", str(timeout_s), *extra),
        )
        self.all = [GatewayProcess(policy, folder / f"data-{n}", arguments=arguments) for n in range(count)]
        for one, address in zip(self.all, self.addresses, strict=True):
            one.control_address = address

    def __iter__(self) -> Iterator[GatewayProcess]:
        return iter(self.all)

    def __getitem__(self, n: int) -> GatewayProcess:
        return self.all[n]

    def __enter__(self) -> Trio:
        try:
            for one in self.all:
                one.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for one in self.all:
            one.close()

    def peers(self, n: int) -> dict[str, dict[str, Any]]:
        """What sidecar ``n`` says of each address."""
        return {peer["peer"]: peer for peer in self[n].control("GET", "/v1/peers")[1]["peers"]}

    def scopes(self, n: int) -> set[str]:
        """What is stopped at sidecar ``n``."""
        return {kill["scope"] for kill in self[n].control("GET", "/v1/kills")[1]["kills"]}

    def in_step(self) -> bool:
        """Whether every sidecar finds every other one answering and knowing the same."""
        for n in range(len(self.all)):
            others = [peer for peer in self.peers(n).values() if peer["state"] != "self"]
            if len(others) != len(self.all) - 1:
                return False
            if any(peer["state"] != "answering" or not peer["in_step"] for peer in others):
                return False
        return True
