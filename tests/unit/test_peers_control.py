"""The routes for peers and what they cost a stranger, over real sockets: sidecars in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from outrider.errors import Misconfigured
from outrider.kills import Kill, Scope
from outrider.peers import records
from outrider.peers.client import credential
from outrider.settings import Address, Peers, Settings, Tls
from outrider.sidecar import Sidecar
from tests.support.certificates import Certificate, certificate
from tests.support.fleet_kit import SECRET, free_ports

POLICY = """
apiVersion: outrider.dev/v1alpha1
kind: Policy
metadata: {name: alone}
rules:
  - {name: all, tools: ["*"], then: allow}
"""
NOBODY = Address("127.0.0.1", 1)


@contextlib.asynccontextmanager
async def sidecar(
    folder: Path, name: str, peers: Peers, control: Address | None = None, tls: Certificate | None = None
) -> AsyncIterator[Sidecar]:
    (folder / "policy").mkdir(exist_ok=True)
    (folder / "policy" / "p.yaml").write_text(POLICY)
    free = Address("127.0.0.1", 0)
    pems = Tls() if tls is None else Tls(str(tls.cert), str(tls.key))
    running = await Sidecar.start(
        Settings(
            folder / "policy", folder / name, free, control or free, control_tls=pems, peers=peers, drain_timeout_s=0
        )
    )
    try:
        yield running
    finally:
        await running.stop()


async def ask(
    one: Sidecar, method: str, path: str, body: Any = None, token: str = "", ca: Path | None = None
) -> tuple[int, Any]:
    data = one.services.settings.data
    headers = {"Authorization": f"Bearer {token or (data / 'admin.token').read_text().strip()}"}
    context = ssl.create_default_context(cafile=str(ca)) if ca is not None else True
    raw = None if body is None else json.dumps(body)
    url = f"http{'s' if ca is not None else ''}://{one.control}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=raw, headers=headers, ssl=context) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    return file


@pytest.fixture
async def alone(tmp_path: Path, secret: Path) -> AsyncIterator[Sidecar]:
    """It was told of a peer that nobody is."""
    async with sidecar(tmp_path, "data", Peers((NOBODY,), secret_file=secret, timeout_s=1.0)) as running:
        yield running


def told(**changed: Any) -> dict[str, Any]:
    kill = Kill("k-1", Scope("agent", "ann"), "why", "bob", 1_800_000_000.0, 0.0)
    return {"kill": msgspec.to_builtins(records.told(kill)) | changed, "sidecar": "pod-b:7071"}


async def test_the_peers_credential_opens_their_routes_and_nothing_else(alone: Sidecar) -> None:
    """The secret itself opens nothing; the people's token everything; the agents' nothing."""
    token = credential(SECRET)
    for path in ("/v1/peer/kills", "/v1/peer/agents", "/v1/peer/calls", "/v1/peer/runs"):
        assert (await ask(alone, "GET", path, token=token))[0] == 200
        assert (await ask(alone, "GET", path))[0] == 200
        assert (await ask(alone, "GET", path, token=SECRET))[0] == 401
        assert (await ask(alone, "GET", path, token=token[:-1]))[0] == 401
    for method, path in (("GET", "/v1/kills"), ("POST", "/v1/kills"), ("GET", "/v1/peers"), ("GET", "/metrics")):
        status, problem = await ask(alone, method, path, token=token)
        assert (status, problem["detail"]) == (
            403,
            "This is the peers' credential; it opens /v1/peer/ and nothing else.",
        )


async def test_without_peers_no_credential_of_peers_exists(tmp_path: Path) -> None:
    """Not even one made from the people's token."""
    async with sidecar(tmp_path, "data", Peers()) as running:
        admin = (tmp_path / "data" / "admin.token").read_text().strip()
        assert (await ask(running, "GET", "/v1/peer/kills", token=credential(admin)))[0] == 401
        _, receipt = await ask(running, "POST", "/v1/kills", {"scope": "global", "reason": "x"})
        assert (receipt["complete"], receipt["peers"]) == (True, [])
        _, found = await ask(running, "GET", "/v1/peers")
        assert (found["peers"], found["caught_up"]) == ([], True)


async def test_a_kill_that_is_told_is_answered_with_a_receipt(alone: Sidecar) -> None:
    """In force; told again the same; then the same digest needs no kills; its end likewise."""
    token = credential(SECRET)
    for _ in range(2):
        status, receipt = await ask(alone, "PUT", "/v1/peer/kills/k-1", told(), token)
        assert status == 200 and receipt["who"]["sidecar"].endswith(f":{alone.control.port}")
        assert (receipt["id"], receipt["durable"], receipt["calls"]) == ("k-1", True, [])
    _, found = await ask(alone, "GET", "/v1/peer/kills", token=token)
    assert [kill["id"] for kill in found["kills"]] == ["k-1"]
    digest = alone.services.kills.digest()
    assert (await ask(alone, "GET", f"/v1/peer/kills?digest={digest}", token=token))[1]["kills"] is None
    over = told(lifted={"at": 1_800_000_100.0, "by": "eve", "reason": "over"})
    assert (await ask(alone, "PUT", "/v1/peer/kills/k-1", over, token))[0] == 200
    assert alone.services.kills.all() == ()


@pytest.mark.parametrize(
    ("path", "body", "told_of"),
    [
        ("k-1", {}, "'kill' is missing"),
        ("k-1", {"kill": [], "sidecar": "b"}, "'kill' is wrong"),
        ("k-1", told(scope="planet:earth"), "planet:earth"),
        ("k-1", told(at=-5), "not two moments"),
        ("k-2", told(), "is not the one in the path"),
        ("k-1", told() | {"more": 1}, "'more' is not known"),
    ],
)
async def test_what_cannot_be_understood_is_refused(alone: Sidecar, path: str, body: Any, told_of: str) -> None:
    """400 and what is wrong; nothing takes effect."""
    status, problem = await ask(alone, "PUT", f"/v1/peer/kills/{path}", body, credential(SECRET))
    assert (status, problem["code"]) == (400, "invalid_request") and told_of in problem["detail"]
    assert alone.services.kills.all() == ()


async def test_with_nobody_there_it_serves_and_says_that_it_may_lack_kills(alone: Sidecar) -> None:
    """And every kill is told to be incomplete."""
    _, found = await ask(alone, "GET", "/v1/peers")
    assert found["caught_up"] is False
    assert [(peer["peer"], peer["state"]) for peer in found["peers"]] == [("127.0.0.1:1", "silent")]
    _, receipt = await ask(alone, "POST", "/v1/kills", {"scope": "global", "reason": "x"})
    assert receipt["complete"] is False and receipt["durable"] is True
    status, lifted = await ask(alone, "DELETE", f"/v1/kills/{receipt['id']}", {"reason": "x"})
    assert (status, lifted["complete"]) == (200, False)


async def test_peers_behind_a_name_find_each_other_over_tls(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A headless service: one name, one port, an address each; the certificate has the name. Each leaves itself out."""
    made = certificate(tmp_path, "all")
    (port,) = free_ports(1)
    hosts = ("127.0.0.1", "127.0.0.2")

    async def look_up(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up, raising=False)
    peers = Peers(dns=Address("localhost", port), secret_file=secret, ca_file=str(made.ca), timeout_s=5.0)
    async with sidecar(tmp_path, "a", peers, Address(hosts[0], port), made) as first:
        _, receipt = await ask(first, "POST", "/v1/kills", {"scope": "agent:ann", "reason": "x"}, ca=made.ca)
        assert receipt["complete"] is False
        async with sidecar(tmp_path, "b", peers, Address(hosts[1], port), made) as second:
            assert [kill.id for kill in second.services.kills.all()] == [receipt["id"]]
            states = {str(peer.address): peer.state.value for peer in second.services.fleet.lines.book}
            assert states == {f"{hosts[0]}:{port}": "answering", f"{hosts[1]}:{port}": "self"}
            _, receipt = await ask(first, "POST", "/v1/kills", {"scope": "global", "reason": "x"}, ca=made.ca)
            assert receipt["complete"] is True and len(receipt["peers"]) == 1


async def test_a_secret_that_is_none_stops_the_start(tmp_path: Path) -> None:
    """Not there, or too short: with the file's name and how to make one."""
    short = tmp_path / "short"
    short.write_text("abc")
    for file, match in ((short, "shorter than 16 characters. Make one"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(Misconfigured, match=match):
            async with sidecar(tmp_path, "data", Peers((NOBODY,), secret_file=file)):
                pass
