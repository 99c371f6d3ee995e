"""Raw HTTP with the clients that people have: they change a base URL, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.testing.gateway import GatewayProcess
from tests.support.eventually import eventually
from tests.support.wire_upstream import CHUNK, Seen, WireUpstream

GIGABYTE = 1_000_000_000
MAY_GROW_BYTES = 48 * 1024 * 1024
"""Of the sidecar while a gigabyte passes it; a body that was kept would be twenty times that."""
ZEROS = b"\0" * CHUNK


def answering(seen: Seen) -> Iterator[bytes]:
    """``/echo``: what was received; ``/gigabyte``: that; ``/drip``: a part each 50 ms, without end."""
    path = seen.target.partition("?")[0]
    if path == "/gigabyte":
        yield f"HTTP/1.1 200 OK\r\nContent-Length: {GIGABYTE}\r\n\r\n".encode()
        for _ in range(GIGABYTE // CHUNK):
            yield ZEROS
        yield ZEROS[: GIGABYTE % CHUNK]
    elif path == "/drip":
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        while True:
            yield b"4\r\ndrip\r\n"
            time.sleep(0.05)
    else:
        body = f"{seen.method} {seen.target} {seen.size} {seen.digest}".encode()
        yield f"HTTP/1.1 200 OK\r\nX-Theirs: yes\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def upstream() -> Iterator[WireUpstream]:
    with WireUpstream(answering) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(upstream: WireUpstream) -> Iterator[GatewayProcess]:
    policy: dict[str, Any] = {
        "upstreams": {"files": {"http": {"url": upstream.url}}},
        "tools": [{"match": "files.*", "timeouts": {"total": "5m"}}],
        "rules": [{"name": "files", "tools": ["files.*", "files.http"], "then": "allow"}],
    }
    with GatewayProcess(policy) as running:
        yield running


@pytest.fixture
def base(gateway: GatewayProcess) -> str:
    """What a client's base URL is set to, with the credential in it."""
    return f"http://token:{gateway.agent_token}@{gateway.listen}/http/files"


LARGE = bytes(range(256)) * 4096
EXPECTED = f"POST /echo?a=b%20c {len(LARGE)} {hashlib.sha256(LARGE).hexdigest()}"


def test_requests(base: str) -> None:
    """Its session, a large upload, a generator, and what it does to the URL by itself."""
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(f"{base}/echo", params={"a": "b c"}, data=LARGE)
        assert answer.text == EXPECTED.replace("%20", "+") and answer.headers["X-Theirs"] == "yes"
        parts = session.put(f"{base}/echo", data=(LARGE[at : at + 100_000] for at in range(0, len(LARGE), 100_000)))
        assert parts.text.endswith(hashlib.sha256(LARGE).hexdigest())
        assert session.get(f"{base}/a/../echo").text.startswith("GET /echo ")  # mended by the client, before it is sent
        assert session.get(f"{base}/a%2Fb").json()["code"] == "invalid_request"
        assert session.head(f"{base}/echo").status_code == 200
        with session.get(f"{base}/drip", stream=True) as stream:
            assert next(stream.iter_content(4)) == b"drip"


def test_httpx(base: str) -> None:
    """With and without waiting for the whole answer."""
    httpx = pytest.importorskip("httpx")
    with httpx.Client(base_url=base, trust_env=False) as client:
        answer = client.post("/echo?a=b%20c", content=LARGE)
        assert answer.text == EXPECTED and answer.headers["outrider-attempts"] == "1"
        with client.stream("GET", "/drip") as stream:
            assert next(stream.iter_bytes(4)) == b"drip"


async def test_aiohttp(base: str) -> None:
    """Uploads in chunks, concurrently."""
    aiohttp = pytest.importorskip("aiohttp")

    async def parts() -> Any:
        for at in range(0, len(LARGE), 65_536):
            yield LARGE[at : at + 65_536]

    async with aiohttp.ClientSession() as session:
        async with session.post(f"{base}/echo?a=b%20c", data=parts()) as answer:
            assert await answer.text() == EXPECTED

        async def one(n: int) -> str:
            async with session.get(f"{base}/echo?n={n}") as reply:
                return str((await reply.text()).split()[1])

        assert await asyncio.gather(*map(one, range(50))) == [f"/echo?n={n}" for n in range(50)]


def test_curl(base: str, gateway: GatewayProcess, tmp_path: Path) -> None:
    """Its user option, its wait for 100 Continue, its way with dots."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    large = tmp_path / "large"
    large.write_bytes(LARGE)

    def run(*words: str) -> str:
        command = [curl, "--silent", "--show-error", "--noproxy", "*", "--max-time", "60", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "Content-Type" in run("--data", "{}", f"{base}/echo")  # curl calls it a form
    binary = ["--header", "Content-Type: application/octet-stream"]
    assert run(*binary, "--data-binary", f"@{large}", f"{base}/echo?a=b%20c") == EXPECTED
    own = ["--header", f"Outrider-Token: {gateway.agent_token}"]
    plain = f"{gateway.url}/http/files"
    assert run(*own, "--upload-file", str(large), f"{plain}/echo").startswith(f"PUT /echo {len(LARGE)} ")
    assert "dot segment" in run(*own, "--path-as-is", f"{plain}/../../v1/call")
    assert "empty segment" in run(*own, f"{plain}//echo")
    assert (
        run(*own, "--write-out", "%{http_code}", "--output", "/dev/null", f"{plain}/echo?x[]=1", "--globoff") == "200"
    )


# ── a gigabyte ───────────────────────────────────────────────────────────────────────────────────────────────────


def peak_bytes(pid: int) -> int:
    """The most memory that the process ever held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def connected(gateway: GatewayProcess) -> http.client.HTTPConnection:
    host, _, port = gateway.listen.rpartition(":")
    return http.client.HTTPConnection(host, int(port), timeout=60, blocksize=CHUNK)


@pytest.mark.timeout(240)
def test_a_gigabyte_passes_both_ways_in_constant_memory(gateway: GatewayProcess, upstream: WireUpstream) -> None:
    """Up, then down; slow: half a minute on a small machine."""
    own = {"Outrider-Token": gateway.agent_token}
    connection = connected(gateway)
    connection.request("GET", "/http/files/echo", headers=own)
    connection.getresponse().read()
    before = peak_bytes(gateway.pid)

    def parts() -> Iterator[bytes]:
        for _ in range(GIGABYTE // CHUNK):
            yield ZEROS
        yield ZEROS[: GIGABYTE % CHUNK]

    connection.request("PUT", "/http/files/echo", parts(), {**own, "Content-Length": str(GIGABYTE)})
    said = connection.getresponse().read().decode().split()
    assert said[2] == str(GIGABYTE)

    connection.request("GET", "/http/files/gigabyte", headers=own)
    answer = connection.getresponse()
    digest, size = hashlib.sha256(), 0
    while part := answer.read(CHUNK):
        digest.update(part)
        size += len(part)
    assert size == GIGABYTE and said[3] == digest.hexdigest()
    call = answer.headers["Outrider-Call"]
    assert peak_bytes(gateway.pid) - before < MAY_GROW_BYTES

    def end() -> Any:
        _, found = gateway.control("GET", f"/v1/ledger?call_id={call}&type=attempt.finished")
        return [(record.get("result_bytes"), record.get("result_digest")) for record in found["records"]]

    assert eventually(lambda: end() == [(GIGABYTE, digest.hexdigest())])


def test_a_kill_in_the_middle_breaks_every_stream(gateway: GatewayProcess) -> None:
    """No client takes what it has for the whole; nothing passes afterwards."""
    own = {"Outrider-Token": gateway.agent_token}
    running = [connected(gateway) for _ in range(8)]
    answers = []
    for connection in running:
        connection.request("GET", "/http/files/drip", headers=own)
        answers.append(connection.getresponse())
        assert answers[-1].read(4) == b"drip"
    broken: list[BaseException] = []

    def read_on(answer: http.client.HTTPResponse) -> None:
        try:
            while answer.read(4):
                pass
        except (ConnectionError, http.client.IncompleteRead) as error:
            broken.append(error)

    threads = [threading.Thread(target=read_on, args=(answer,), daemon=True) for answer in answers]
    for thread in threads:
        thread.start()
    status, receipt = gateway.control("POST", "/v1/kills", {"scope": "global", "reason": "a test"})
    assert status in {200, 201} and receipt["counts"] == {"not_executed": 0, "completed": 0, "unknown": 8}
    for thread in threads:
        thread.join(10)
    assert len(broken) == 8
    last = connected(gateway)
    last.request("GET", "/http/files/echo", headers=own)
    assert last.getresponse().status == 403
    gateway.control("DELETE", f"/v1/kills/{receipt['id']}", {"reason": "the test is over"})
