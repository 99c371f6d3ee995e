"""The files of docker/ are what their engines accept, and keep what docs/deploy.md and THREAT_MODEL.md say of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider import __version__
from outrider.cli import main
from tests.support import deployment
from tests.support.deployment import DOCKER, KUBERNETES, LAYOUTS, ROOT

OLDEST_KUBERNETES = "1.29.0"
"""The first where native sidecars are on without being asked for."""
CLOSING_S = 5
"""What a sidecar needs beside its drain, at the most: listeners, probes, the ledger."""


def tool(name: str) -> str:
    """A program beside this interpreter, or of the system."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


# ── the image ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_dockerfile_is_clean() -> None:
    """hadolint, every rule, the shell's own included."""
    run(tool("hadolint"), "--failure-threshold", "style", "docker/Dockerfile")


def test_the_image_runs_as_a_numbered_user_and_says_when_it_is_healthy() -> None:
    """A name would not do: Kubernetes' runAsNonRoot wants to see the number."""
    final = deployment.dockerfile()[-1]
    assert deployment.all_of(final, "USER") == ["10001:10001"]
    assert deployment.exec_form(deployment.all_of(final, "ENTRYPOINT")[0]) == ["outrider"]
    assert deployment.exec_form(deployment.all_of(final, "CMD")[0]) == ["serve"]
    assert deployment.all_of(final, "HEALTHCHECK")[0].endswith('CMD ["outrider", "probe", "--ready"]')


def test_the_base_image_is_pinned_and_is_the_python_of_the_tests() -> None:
    """The constraints were made for it; both stages are the same, since the environment is moved as it is."""
    bases = [stage[0].text.split()[0] for stage in deployment.dockerfile()]
    assert len(set(bases)) == 1
    wanted = re.search(r'^python_version = "([\d.]+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert wanted is not None
    assert bases[0].startswith(f"python:{wanted[1]}-slim-")


def test_what_is_copied_into_the_image_is_not_ignored_and_nothing_else_is_there() -> None:
    """The context is a list of what is needed: a data folder of a working copy, tokens in it, is never in an image."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    copied = {
        source.rstrip("/")
        for stage in deployment.dockerfile()
        for text in deployment.all_of(stage, "COPY")
        if not text.startswith("--from")
        for source in text.split()[:-1]
    }
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_source_distribution_brings_the_deployment() -> None:
    """Who unpacks it can build the image."""
    text = (ROOT / "pyproject.toml").read_text()
    (included,) = re.findall(r"^include = (\[.*\])$", text, re.MULTILINE)
    assert {"docker", ".dockerignore"} <= set(yaml.safe_load(included))


# ── compose ──────────────────────────────────────────────────────────────────────────────────────────────────────


def compose() -> Any:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_the_compose_file_is_one() -> None:
    """As docker-compose reads it; every file it mounts is there."""
    shown = yaml.safe_load(run(tool("docker-compose"), "-f", "docker/compose.yaml", "config"))
    mounts = [mount.split(":")[0] for service in shown["services"].values() for mount in service.get("volumes", [])]
    assert [mount for mount in mounts if mount.startswith("/") and not Path(mount).exists()] == []


def test_every_container_of_compose_is_shut_in() -> None:
    """Read-only, without capabilities and without a way to more."""
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service and "ports" not in service, name


def test_in_compose_the_agent_reads_the_token_and_nothing_of_the_sidecar() -> None:
    """Another user; the shared folder read-only; no volume of the sidecar's but that."""
    services = compose()["services"]
    assert services["agent"]["network_mode"] == services["sidecar"]["network_mode"] == "service:pod"
    assert services["agent"]["volumes"] == ["./agent.py:/app/agent.py:ro", "tokens:/run/outrider:ro"]
    user, group = services["agent"]["user"].split(":")
    options = dict(word.split("=") for word in compose()["volumes"]["tokens"]["driver_opts"]["o"].split(","))
    assert (options["gid"], options["mode"]) == (group, "0750")
    assert options["uid"] == "10001" != user


def test_compose_waits_longer_than_the_drain() -> None:
    """Killed before that, what is under way would be unknown without need."""
    assert int(compose()["services"]["sidecar"]["stop_grace_period"].removesuffix("s")) >= 25 + CLOSING_S


# ── Kubernetes ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, ""])
def test_kubernetes_knows_every_field(layout: str, version: str) -> None:
    """Strictly, by the schemas of the oldest version it is for and of the newest that is known."""
    wanted = ["-k", version] if version else []
    files = [str(path) for path in deployment.manifests(layout)]
    told = run(tool("kubernetes-validate"), "--strict", *wanted, *files)
    assert told.count(" passed for resource ") == len(deployment.objects(layout))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_kustomization_names_every_file_and_pins_the_images(layout: str) -> None:
    """A file that nobody applies would be a promise that nobody keeps."""
    folder = KUBERNETES / layout
    named = {path.name for path in deployment.manifests(layout)}
    assert named == {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    tags = {
        image["name"]: image["newTag"]
        for image in yaml.safe_load((folder / "kustomization.yaml").read_text())["images"]
    }
    used = {container["image"] for _, pod in deployment.pods(layout) for container in deployment.containers(pod)}
    assert set(tags) == used
    assert tags["outrider"] == __version__
    assert f"image: outrider:{__version__}\n" in (DOCKER / "compose.yaml").read_text()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pod_passes_the_restricted_standard(layout: str) -> None:
    """What the namespaces' label demands, and a read-only root file system and bounded memory beside."""
    for name, pod in deployment.pods(layout):
        shared = pod["securityContext"]
        assert (shared["runAsNonRoot"], shared["seccompProfile"]["type"]) == (True, "RuntimeDefault"), name
        assert pod["automountServiceAccountToken"] is False, name
        for container in deployment.containers(pod):
            own = container["securityContext"]
            assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True), container["name"]
            assert own["capabilities"] == {"drop": ["ALL"]}, container["name"]
            assert own.get("runAsUser", shared.get("runAsUser", 0)) > 0, container["name"]
            assert container["resources"]["limits"]["memory"], container["name"]
    namespaces = [each for each in deployment.objects(layout) if each["kind"] == "Namespace"]
    assert {each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for each in namespaces} == {"restricted"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_drain_fits_into_the_grace_period(layout: str) -> None:
    """SIGKILL comes at its end, whatever is under way."""
    pod, container = deployment.governor(layout)
    drain_s = float(deployment.environment(container)["OUTRIDER_DRAIN_TIMEOUT"])
    assert drain_s <= 25
    assert drain_s + CLOSING_S <= pod["terminationGracePeriodSeconds"]


def test_the_sidecar_is_a_native_one_that_gates_the_agent() -> None:
    """Started before the agent, which waits for its startup probe, and ended after it."""
    pod, container = deployment.governor("sidecar")
    assert pod["initContainers"] == [container]
    assert container["restartPolicy"] == "Always"
    assert container["startupProbe"]["exec"]["command"] == ["outrider", "probe", "--ready"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_liveness_asks_less_than_readiness(layout: str) -> None:
    """A ledger that cannot be written makes the Pod unready; ending it for that would lose what it still holds."""
    _, container = deployment.governor(layout)
    commands = {kind: container[f"{kind}Probe"]["exec"]["command"] for kind in ("startup", "readiness", "liveness")}
    assert commands["liveness"] == ["outrider", "probe", "--live"]
    assert commands["readiness"] == commands["startup"] == ["outrider", "probe", "--ready"]


def test_in_the_pod_the_agent_reads_the_token_and_nothing_of_the_sidecar() -> None:
    """Another user; a folder in memory, read-only; and no mount of the data, the policy or the upstreams' secrets."""
    pod, sidecar = deployment.governor("sidecar")
    (agent,) = pod["containers"]
    mounted = {mount["name"]: mount.get("readOnly", False) for mount in agent["volumeMounts"]}
    assert mounted == {"token": True, "agent-tmp": False}
    assert next(volume for volume in pod["volumes"] if volume["name"] == "token")["emptyDir"]["medium"] == "Memory"
    assert agent["securityContext"]["runAsUser"] != sidecar["securityContext"]["runAsUser"]
    assert pod.get("shareProcessNamespace", False) is False
    assert "valueFrom" not in str(agent["env"])
    folder = deployment.environment(sidecar)["OUTRIDER_TOKEN_DIR"]
    assert deployment.environment(agent)["OUTRIDER_TOKEN_FILE"] == f"{folder}/agent.token"


def test_the_sidecars_find_and_reach_each_other() -> None:
    """One name in the Service, the setting and the way through the network; with TLS, for it leaves the Pod."""
    service = deployment.one("sidecar", "Service", "outrider-peers")
    policy = deployment.one("sidecar", "NetworkPolicy", "researcher")
    _, container = deployment.governor("sidecar")
    told = deployment.environment(container)
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert told["OUTRIDER_PEERS_DNS"] == "outrider-peers.agents.svc:7071"
    assert told["OUTRIDER_CONTROL_LISTEN"] == "0.0.0.0:7071"
    assert told["OUTRIDER_CONTROL_CERT"] and told["OUTRIDER_PEER_CA"] and told["OUTRIDER_PEER_SECRET_FILE"]
    assert "OUTRIDER_LISTEN" not in told  # agents come over loopback
    peers = {"podSelector": {"matchLabels": service["spec"]["selector"]}}
    port = [{"port": 7071, "protocol": "TCP"}]
    assert policy["spec"]["ingress"] == [{"from": [peers], "ports": port}]
    assert {"to": [peers], "ports": port} in policy["spec"]["egress"]
    pod = deployment.one("sidecar", "StatefulSet", "researcher")["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_variable_is_one_that_serve_knows(layout: str) -> None:
    """A misspelt one would be ignored in silence."""
    known = set(re.findall(r"`(OUTRIDER_\w+)`", (ROOT / "docs" / "cli.md").read_text())) | {"OUTRIDER_CA_FILE"}
    _, container = deployment.governor(layout)
    units = (DOCKER / "systemd" / "outrider.service").read_text()
    image = deployment.variables(deployment.dockerfile()[-1])
    set_here = {*deployment.environment(container), *re.findall(r"^Environment=(\w+)=", units, re.MULTILINE), *image}
    set_here |= set(compose()["services"]["sidecar"]["environment"])
    assert {name for name in set_here if name.startswith("OUTRIDER_")} - known == set()


def test_only_the_gateways_layout_claims_that_the_network_enforces() -> None:
    """Beside an agent in one Pod no NetworkPolicy tells the two apart."""
    said = {
        layout: deployment.environment(deployment.governor(layout)[1]).get("OUTRIDER_ENFORCEMENT") for layout in LAYOUTS
    }
    assert said == {"sidecar": None, "gateway": "network"}


def _reach(policy: Any) -> list[tuple[str, list[int]]]:
    """Namespace and ports of each way out."""
    return [
        (to["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], [port["port"] for port in way["ports"]])
        for way in policy["spec"]["egress"]
        for to in way["to"]
    ]


def test_agents_of_a_gateway_reach_it_and_the_names_and_nothing_else() -> None:
    """Every Pod of their namespace, whatever its labels; nobody calls them. That is what `network` rests on."""
    policy = deployment.one("gateway", "NetworkPolicy", "agents-reach-the-gateway-only")
    assert policy["metadata"]["namespace"] == "agents"
    assert (policy["spec"]["podSelector"], policy["spec"]["ingress"]) == ({}, [])
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert _reach(policy) == [("outrider", [7070]), ("kube-system", [53, 53])]


def test_the_upstreams_credentials_are_where_no_agent_is() -> None:
    """A Pod can name Secrets of its own namespace only; the agents' Pods name one, their token."""
    agent = deployment.one("gateway", "Deployment", "researcher")
    gateway = deployment.one("gateway", "StatefulSet", "outrider")
    assert agent["metadata"]["namespace"] != gateway["metadata"]["namespace"]
    assert re.findall(r"'secretName': '([\w-]+)'", str(agent)) == ["researcher-token"]
    assert "secretKeyRef" not in str(agent)
    assert "outrider-upstreams" in str(gateway)


def test_a_gateways_control_plane_is_not_on_the_network() -> None:
    """Agents reach its data plane, with TLS; people come by way of Kubernetes."""
    _, container = deployment.governor("gateway")
    told = deployment.environment(container)
    assert told["OUTRIDER_LISTEN"] == "0.0.0.0:7070"
    assert told["OUTRIDER_LISTEN_CERT"] and told["OUTRIDER_LISTEN_KEY"]
    assert "OUTRIDER_CONTROL_LISTEN" not in told
    assert [port["containerPort"] for port in container["ports"]] == [7070]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_policy_of_the_config_map_is_good(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No error and no warning, with the variables that the container gets."""
    _, container = deployment.governor(layout)
    for entry in container["env"]:
        if "valueFrom" in entry:
            monkeypatch.setenv(entry["name"], "a-secret-of-a-test")
    for name, text in deployment.one(layout, "ConfigMap", "outrider-policy")["data"].items():
        (tmp_path / name).write_text(text)
    assert main(["check", "--policy", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("0 error(s), 0 warning(s).")


# ── systemd ──────────────────────────────────────────────────────────────────────────────────────────────────────


def unit_lines(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def test_systemd_accepts_the_unit_and_the_drop_in(tmp_path: Path) -> None:
    """As they are, but for the program, which is installed on no machine of tests."""
    verify = tool("systemd-analyze")
    unit = (DOCKER / "systemd" / "outrider.service").read_text()
    assert "ExecStart=/opt/outrider/bin/outrider serve\n" in unit
    (tmp_path / "outrider.service").write_text(unit.replace("/opt/outrider/bin/outrider", "/bin/true"))
    (tmp_path / "researcher.service").write_text("[Service]\nExecStart=/bin/true\n")
    (tmp_path / "researcher.service.d").mkdir()
    shutil.copy(DOCKER / "systemd" / "agent.conf", tmp_path / "researcher.service.d" / "outrider.conf")
    units = [str(tmp_path / "outrider.service"), str(tmp_path / "researcher.service")]
    done = subprocess.run([verify, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_shut_in() -> None:
    """By systemd's own measure, from 0 to 10: at most 2, where a unit without a word on it has 9.6."""
    analyze = tool("systemd-analyze")
    if "--threshold" not in run(analyze, "--help"):
        pytest.skip("this systemd-analyze does not measure files")
    run(analyze, "security", "--offline=yes", "--threshold=20", "docker/systemd/outrider.service")


def test_the_units_times_fit() -> None:
    """The drain into the stop; the watchdog is one that the sidecar answers."""
    said = dict(unit_lines((DOCKER / "systemd" / "outrider.service").read_text()))
    drain_s = float(
        re.findall(r"OUTRIDER_DRAIN_TIMEOUT=(\d+)", (DOCKER / "systemd" / "outrider.service").read_text())[0]
    )
    assert drain_s + CLOSING_S <= int(said["TimeoutStopSec"].removesuffix("s"))
    assert (said["Type"], said["WatchdogSec"]) == ("notify", "30s")


def test_nobody_but_the_sidecars_user_enters_its_data_folder() -> None:
    """Agents' users are of the group, which may read the token in the other folder."""
    said = dict(unit_lines((DOCKER / "systemd" / "outrider.service").read_text()))
    assert (said["StateDirectoryMode"], said["RuntimeDirectoryMode"], said["UMask"]) == ("0700", "0750", "0077")
    agent = dict(unit_lines((DOCKER / "systemd" / "agent.conf").read_text()))
    assert agent["User"] != said["User"]
    assert agent["SupplementaryGroups"] == said["Group"]
    assert (agent["IPAddressDeny"], agent["IPAddressAllow"]) == ("any", "localhost")


# ── docs/deploy.md ───────────────────────────────────────────────────────────────────────────────────────────────

PAGE = (ROOT / "docs" / "deploy.md").read_text()


def shown(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_file_and_page_it_names_is_there() -> None:
    """Links, and what its commands read from the repository."""
    links = re.findall(r"\[[^\]]+\]\(([^)#:]+)\)", PAGE)
    named = re.findall(r"\b(?:docker|policies|tests)/[\w./-]+\b", PAGE)
    assert links and named
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_that_must_be_there_before_is_made_by_a_command(layout: str) -> None:
    """Secrets and ConfigMaps that the Pods name and no manifest holds, each in its namespace."""
    held = {(each["kind"], each["metadata"]["name"]) for each in deployment.objects(layout)}
    workloads = [each for each in deployment.objects(layout) if each["kind"] in ("Deployment", "StatefulSet")]
    for workload in workloads:
        text = str(workload)
        wanted = {("Secret", name) for name in re.findall(r"(?:secretName'|secretKeyRef': \{'name'): '([\w-]+)'", text)}
        wanted |= {("ConfigMap", name) for name in re.findall(r"'configMap': \{'name': '([\w-]+)'", text)}
        namespace = workload["metadata"]["namespace"]
        for kind, name in wanted - held:
            what = "secret (?:generic|tls)" if kind == "Secret" else "configmap"
            assert re.search(rf"kubectl -n {namespace} create {what} {name} ", PAGE), (kind, name)


def test_every_command_of_outrider_it_shows_is_one() -> None:
    """In whatever Pod it is run."""
    reference = (ROOT / "docs" / "cli.md").read_text()
    lines = [line for text in shown("sh") for line in text.splitlines()]
    words = [re.findall(r"(?:^|-- |/bin/)outrider ([a-z]+(?: [a-z]+)?)", line) for line in lines]
    commands = [found[0] for found in words if found]
    assert len(commands) >= 4
    for command in commands:
        assert any(f"\n## outrider {name}\n" in reference for name in (command, command.split()[0])), command


def test_the_policy_for_the_upstreams_side_is_valid(tmp_path: Path) -> None:
    """By the schema, strictly, as the files are."""
    (text,) = shown("yaml")
    (tmp_path / "policy.yaml").write_text(text)
    run(tool("kubernetes-validate"), "--strict", str(tmp_path / "policy.yaml"))
