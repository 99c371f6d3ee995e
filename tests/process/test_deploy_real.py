"""What docker/ describes, for real and without an engine: the image's own install commands, what they install started
as the image starts it, shut in, and the very probes of the manifests."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider.cli.probe import TIMEOUT_S
from outrider.testing.gateway import GatewayProcess
from outrider.testing.process import ManagedProcess
from outrider.testing.script import hold, respond
from outrider.testing.upstream_process import UpstreamProcess
from tests.support import deployment
from tests.support.certificates import certificate
from tests.support.eventually import eventually
from tests.support.image import Image, build, can_mount

FREE_PORTS = {"OUTRIDER_LISTEN": "127.0.0.1:0", "OUTRIDER_CONTROL_LISTEN": "127.0.0.1:0"}
AGENT_USER = 10002
only_as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can start processes of two other users")


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    made = build()
    yield made
    shutil.rmtree(made.root)


def settled(image: Image) -> dict[Path, int]:
    """Every file of the image with its time of change, but for the volumes."""
    volumes = image.root / "volumes"
    return {path: path.lstat().st_mtime_ns for path in image.root.rglob("*") if not path.is_relative_to(volumes)}


# ── the image ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("owner", "mode"), [(10001, 0o700), (0, 0o2770)], ids=["volume", "fsGroup"])
def test_the_image_serves_shut_in(image: Image, owner: int, mode: int) -> None:
    """Read-only but for two folders, no HOME, another user: it gets ready, is healthy, ends in order, and its ledger
    verifies. Nothing of the image was changed. The data's volume is as Docker makes it, and as Kubernetes does."""
    if owner == 0 and os.getuid() != 0:
        pytest.skip("only root makes a volume of root's")
    data, tmp = image.folder(f"volumes/{mode:o}/data", owner, mode), image.folder(f"volumes/{mode:o}/tmp", 10001)
    env = image.env | FREE_PORTS | {"OUTRIDER_DATA": str(data), "TMPDIR": str(tmp)}
    before = settled(image)
    sidecar = ManagedProcess(image.shut_in(image.started(), [data, tmp]), "outrider ready ", env=env)
    sidecar.start()
    try:
        healthy = subprocess.run(image.shut_in(image.healthcheck(), [data, tmp]), env=env, check=False, timeout=30)
        assert healthy.returncode == 0
        assert (data / "outrider.db").stat().st_uid == (10001 if os.getuid() == 0 else os.getuid())
        assert sidecar.terminate() == 0
    finally:
        sidecar.kill9()
    stopped = subprocess.run(image.healthcheck(), env=env, check=False, capture_output=True, timeout=30)
    assert stopped.returncode == 1
    verify = image.command(["outrider", "ledger", "verify", "--data", str(data)])
    subprocess.run(verify, env=env, check=True, capture_output=True, timeout=30)
    assert settled(image) == before


@only_as_root
def test_what_is_shut_in_writes_nowhere_else(image: Image) -> None:
    """The tests above would pass without a wall, too; here is the wall."""
    given = image.folder("volumes/given", 10001)
    places = {given: True, image.root / "opt/outrider": False, Path(sys.prefix): False}
    if can_mount():
        places |= {Path("/tmp"): False, Path("/var/tmp"): False}
    for place, open_ in places.items():
        done = subprocess.run(image.shut_in(["touch", f"{place}/x"], [given]), capture_output=True, check=False)
        assert (done.returncode == 0) is open_, place


def test_the_image_holds_the_sidecar_and_no_framework(image: Image) -> None:
    """The ``gateway`` extra and nothing beside it."""
    names = {path.name.lower() for path in (image.root / "opt/outrider/lib").glob("*/site-packages/*")}
    assert {"outrider", "outrider_adapters", "uvloop"} <= names
    assert not {"langchain", "langgraph", "crewai", "autogen_core", "pytest", "numpy"} & names
    assert not [name for name in names if name.startswith("__editable__")]


# ── compose ──────────────────────────────────────────────────────────────────────────────────────────────────────


def service(name: str) -> Any:
    return yaml.safe_load((deployment.DOCKER / "compose.yaml").read_text())["services"][name]


@only_as_root
@pytest.mark.timeout(300)
def test_the_composition_works_and_keeps_the_agent_out(image: Image) -> None:
    """Its three commands as three users' processes: the agent's calls pass the flaky tools, with the token of the
    shared folder; and the sidecar's data folder is closed to it."""
    data, tmp = image.folder("volumes/data", 10001), image.folder("volumes/sidecar-tmp", 10001)
    tokens = image.folder("run/outrider", 10001, 0o750)
    shutil.copytree(deployment.ROOT / "gateway/outrider/demo/policy", image.root / "volumes/policy")
    shutil.copytree(deployment.DOCKER, image.root / "app", ignore=shutil.ignore_patterns("kubernetes", "systemd"))
    words = [word.replace("0.0.0.0:9000", "127.0.0.1:0") for word in service("tools")["entrypoint"]]
    tools = ManagedProcess(image.shut_in(image.command(words), []), '{"event": "ready"', env=image.env)
    told = {name: image.here(text) for name, text in service("sidecar")["environment"].items()}
    folders = {"OUTRIDER_DATA": str(data), "OUTRIDER_POLICY": str(image.root / "volumes/policy"), "TMPDIR": str(tmp)}
    try:
        port = json.loads(tools.start())["port"]
        env = image.env | FREE_PORTS | told | folders | {"SHOP_URL": f"http://127.0.0.1:{port}"}
        sidecar = ManagedProcess(image.shut_in(image.started(), [data, tmp, tokens]), "outrider ready ", env=env)
        try:
            ready = dict(word.split("=", 1) for word in sidecar.start().split()[2:])
            _agent_works(image, f"http://{ready['listen']}")
            _agent_is_kept_out(image, data, tokens)
            assert sidecar.terminate() == 0
        finally:
            sidecar.kill9()
        assert tools.terminate() == 0
    finally:
        tools.kill9()


def _agent_works(image: Image, url: str) -> None:
    asked = {name: image.here(text) for name, text in service("agent")["environment"].items()}
    env = image.env | asked | {"OUTRIDER_URL": url, "PAUSE_S": "0.1"}
    agent = ManagedProcess(image.shut_in(image.command(service("agent")["entrypoint"]), [], AGENT_USER), "{", env=env)
    try:
        told = json.loads(agent.start())
    finally:
        agent.kill9()
    assert told == {
        "orders.lookup": {"order": 18, "status": "shipped"},  # its first two connections are dropped
        "payments.charge": {"order": 18, "charged": 40},
        "local.exchange_rate": 1.15,
    }


def _agent_is_kept_out(image: Image, data: Path, tokens: Path) -> None:
    """Asked as that user, with no capability at all: the system's own answers."""
    drop = ["setpriv", "--reuid", str(AGENT_USER), "--regid", "10001", "--clear-groups", "--inh-caps=-all"]
    for path, readable in (
        (tokens / "agent.token", True),
        (data / "admin.token", False),
        (data / "agent.token", False),
    ):
        done = subprocess.run([*drop, "cat", str(path)], capture_output=True, check=False)
        assert (done.returncode == 0) is readable, path
    done = subprocess.run([*drop, "sh", "-c", f"echo mine > {tokens}/agent.token"], capture_output=True, check=False)
    assert done.returncode != 0
    assert [path.name for path in tokens.iterdir()] == ["agent.token"]


# ── Kubernetes ───────────────────────────────────────────────────────────────────────────────────────────────────


def probe(kind: str, gateway: GatewayProcess) -> subprocess.CompletedProcess[str]:
    """The manifest's own command, as the kubelet runs it: in the container's environment, within its time."""
    said = deployment.governor("sidecar")[1][f"{kind}Probe"]
    program, *words = said["exec"]["command"]
    assert program == "outrider"
    plain = {name: text for name, text in os.environ.items() if not name.startswith("OUTRIDER_")}
    return subprocess.run(
        [str(Path(sys.executable).with_name(program)), *words],
        env=plain | {"OUTRIDER_DATA": str(gateway.data)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def manifest_policy(**urls: str) -> str:
    """The policy of the manifest, its upstreams here; probes are quick."""
    policy = yaml.safe_load(deployment.one("sidecar", "ConfigMap", "outrider-policy")["data"]["policy.yaml"])
    for name, url in urls.items():
        policy["upstreams"][name]["http"]["url"] = url
        policy["upstreams"][name]["health"]["readiness"] |= {"period": "200ms", "failureThreshold": 1}
    return yaml.safe_dump(policy)


def is_ready(gateway: GatewayProcess, name: str) -> bool | None:
    """Of an upstream; None before its probe has answered."""
    shown = {each["name"]: each["health"] for each in gateway.control("GET", "/v1/upstreams")[1]["upstreams"]}[name]
    return shown["ready"] if "last" in shown else None


@pytest.fixture
def tickets() -> Iterator[UpstreamProcess]:
    script = {"/healthz": [respond(200)], "/tickets/*": [respond(json={"id": 42})], "/slow/*": [hold(json="done")]}
    with UpstreamProcess(script) as running:
        yield running


def test_one_broken_upstream_does_not_make_the_pod_unready(tickets: UpstreamProcess) -> None:
    """The weather is away, for its probes and its callers; the Pod's own probes, as the manifest writes them, say
    ready and alive, and the tickets work. An unready Pod would take the agent away from what works."""
    with UpstreamProcess() as gone:
        dead = gone.url
    policy = manifest_policy(tickets=tickets.url, weather=dead)
    with GatewayProcess(policy, env={"TICKETS_TOKEN": "a-secret-of-a-test"}) as gateway:
        assert eventually(lambda: is_ready(gateway, "weather") is False and bool(is_ready(gateway, "tickets")))
        for kind in ("startup", "readiness", "liveness"):
            assert (probe(kind, gateway).returncode, kind) == (0, kind)
        status, answer = gateway.call("weather.get_forecast", {"city": "Bern"}, agent="researcher")
        assert (status, answer["code"]) == (503, "upstream_unready")
        assert gateway.call("tickets.get_ticket", {"id": "42"}, agent="researcher")[1]["result"] == {"id": 42}


@pytest.mark.parametrize("layout", deployment.LAYOUTS)
def test_the_manifests_environment_starts_a_sidecar(layout: str, tickets: UpstreamProcess, tmp_path: Path) -> None:
    """With certificates, the peers' secret and all, while no peer answers; its own probes and a command inside the Pod
    reach it, the latter by the CA that the manifest names."""
    made = certificate(tmp_path, "tls")
    (tmp_path / "secret").write_text("a-secret-of-all-peers")
    (tmp_path / "token").mkdir()
    here = {"/etc/outrider/tls/tls.crt": made.cert, "/etc/outrider/tls/tls.key": made.key}
    here |= {"/etc/outrider/tls/ca.crt": made.ca, "/etc/outrider/peers/secret": tmp_path / "secret"}
    here |= {"/run/outrider": tmp_path / "token"}
    addresses = {
        "0.0.0.0:7070": "127.0.0.1:0",
        "0.0.0.0:7071": "127.0.0.1:0",
        "outrider-peers.agents.svc:7071": "localhost:9",
    }
    moved = {path: str(place) for path, place in here.items()} | addresses
    said = deployment.environment(deployment.governor(layout)[1])
    env = {name: moved.get(text, text) for name, text in said.items()}
    assert not [text for text in env.values() if text.startswith(("/etc/", "/run/"))]
    policy, secret = manifest_policy(tickets=tickets.url, weather=tickets.url), {"TICKETS_TOKEN": "a-secret-of-a-test"}
    with GatewayProcess(policy, env=FREE_PORTS | env | secret) as gateway:
        for kind in ("startup", "readiness", "liveness"):
            assert (probe(kind, gateway).returncode, kind) == (0, kind)
        inside = os.environ | env | {"OUTRIDER_DATA": str(gateway.data)}
        outrider = Path(sys.executable).with_name("outrider")
        subprocess.run([outrider, "kills", "ls"], env=inside, check=True, capture_output=True, timeout=60)
    published = [path.name for path in (tmp_path / "token").iterdir()]
    assert published == (["agent.token"] if layout == "sidecar" else [])


def test_a_draining_pod_is_unready_and_alive_and_ends_what_it_began(tickets: UpstreamProcess) -> None:
    """SIGTERM with a call under way: no new ones come, the kubelet does not shoot, the call gets its answer."""
    policy = yaml.safe_load(manifest_policy(tickets=tickets.url))
    policy["tools"][0]["http"]["path"] = "/slow/{args.id}"
    policy["upstreams"].pop("weather")
    policy["tools"].pop(1)
    policy["rules"][0]["tools"] = ["tickets.get_ticket"]
    with GatewayProcess(yaml.safe_dump(policy), env={"TICKETS_TOKEN": "a-secret-of-a-test"}) as gateway:
        assert eventually(lambda: bool(is_ready(gateway, "tickets")))
        answers: list[Any] = []
        arguments = ("tickets.get_ticket", {"id": "42"})
        caller = threading.Thread(target=lambda: answers.append(gateway.call(*arguments, agent="researcher")))
        caller.start()
        tickets.wait_for(1, "/slow/*")
        os.kill(gateway.pid, signal.SIGTERM)
        assert eventually(lambda: probe("readiness", gateway).returncode == 1)
        assert "shutting down" in probe("readiness", gateway).stderr
        assert probe("liveness", gateway).returncode == 0
        tickets.release()
        caller.join(30)
        assert (answers[0][0], answers[0][1]["result"]) == (200, "done")
        assert gateway.terminate() == 0


def test_a_stopped_sidecar_fails_its_liveness(tickets: UpstreamProcess) -> None:
    """A process that hangs answers nobody; the probe says so within its own time, which ends before the kubelet's."""
    assert deployment.governor("sidecar")[1]["livenessProbe"]["timeoutSeconds"] > TIMEOUT_S + 1
    policy = manifest_policy(tickets=tickets.url, weather=tickets.url)
    with GatewayProcess(policy, env={"TICKETS_TOKEN": "a-secret-of-a-test"}) as gateway:
        os.kill(gateway.pid, signal.SIGSTOP)
        try:
            asked = probe("liveness", gateway)
            assert (asked.returncode, "timed out" in asked.stderr) == (1, True)
        finally:
            os.kill(gateway.pid, signal.SIGCONT)
        assert eventually(lambda: probe("liveness", gateway).returncode == 0)


def test_a_changed_config_map_is_in_force_without_a_restart(tickets: UpstreamProcess, tmp_path: Path) -> None:
    """The kubelet swaps a link to a folder of files; the sidecar follows it, and a faulty one changes nothing."""
    folder = tmp_path / "policy"

    def mount(revision: str, text: str) -> None:
        (folder / f"..{revision}").mkdir(parents=True)
        (folder / f"..{revision}" / "policy.yaml").write_text(text)
        (folder / "..new").symlink_to(f"..{revision}")
        (folder / "..new").rename(folder / "..data")

    good = manifest_policy(tickets=tickets.url, weather=tickets.url)
    mount("1", good)
    (folder / "policy.yaml").symlink_to("..data/policy.yaml")
    with GatewayProcess(folder, env={"TICKETS_TOKEN": "a-secret-of-a-test"}) as gateway:
        assert eventually(lambda: bool(is_ready(gateway, "tickets")))
        asked = ("tickets.get_ticket", {"id": "42"})
        assert gateway.call(*asked, agent="researcher")[0] == 200
        mount("2", good.replace("researcher", "writer"))
        assert eventually(lambda: gateway.call(*asked, agent="researcher")[0] == 403)
        assert gateway.call(*asked, agent="writer")[0] == 200
        mount("3", "apiVersion: outrider.dev/v1alpha1\nkind: Policy\nrulez: []\n")
        assert eventually(lambda: bool(gateway.control("GET", "/v1/policy")[1]["rejected"]))
        assert gateway.call(*asked, agent="writer")[0] == 200


def test_the_certificate_that_the_page_makes_is_trusted(tmp_path: Path) -> None:
    """The command of docs/deploy.md as it stands there; a client that trusts it reaches the gateway."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    page = (deployment.ROOT / "docs" / "deploy.md").read_text()
    (line,) = (line for line in page.splitlines() if line.startswith("openssl req "))
    subprocess.run(shlex.split(line), cwd=tmp_path, check=True, capture_output=True, timeout=60)
    tls = [f"--listen-cert={tmp_path / 'tls.crt'}", f"--listen-key={tmp_path / 'tls.key'}"]
    with GatewayProcess({"rules": []}, arguments=tls) as gateway:
        ask = [sys.executable, "-m", "outrider", "probe", "--url", f"https://{gateway.listen}"]
        trusting = os.environ | {"OUTRIDER_CA_FILE": str(tmp_path / "tls.crt")}
        assert subprocess.run(ask, env=trusting, check=False, timeout=60).returncode == 0
        assert subprocess.run(ask, env=dict(os.environ), check=False, capture_output=True, timeout=60).returncode == 1
