"""The files of docker/, read as the engines read them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
LAYOUTS = ("sidecar", "gateway")
Object = Mapping[str, Any]


# ── Dockerfile ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Instruction:
    """``name`` in capitals, and the rest of it on one line."""

    name: str
    text: str


def dockerfile() -> list[list[Instruction]]:
    """The instructions of each stage, ``FROM`` first."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    stages: list[list[Instruction]] = []
    for line in lines:
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append(Instruction(name, rest.strip()))
    return stages


def all_of(stage: list[Instruction], name: str) -> list[str]:
    return [instruction.text for instruction in stage if instruction.name == name]


def exec_form(text: str) -> list[str]:
    """``["a", "b"]`` of ENTRYPOINT, CMD and the end of HEALTHCHECK."""
    words = yaml.safe_load(text)
    assert isinstance(words, list), f"not the exec form: {text}"
    return words


def variables(stage: list[Instruction]) -> dict[str, str]:
    words = [word for text in all_of(stage, "ENV") for word in shlex.split(text)]
    return dict(word.split("=", 1) for word in words)


# ── Kubernetes ───────────────────────────────────────────────────────────────────────────────────────────────────


def manifests(layout: str) -> list[Path]:
    """The files that the layout's kustomization names."""
    folder = KUBERNETES / layout
    return [folder / name for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]]


def objects(layout: str) -> list[Object]:
    return [found for path in manifests(layout) for found in yaml.safe_load_all(path.read_text())]


def one(layout: str, kind: str, name: str) -> Any:
    (found,) = (each for each in objects(layout) if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pods(layout: str) -> Iterator[tuple[str, Any]]:
    """Name and Pod spec of each workload."""
    for each in objects(layout):
        if each["kind"] in ("Deployment", "StatefulSet"):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def containers(pod: Any) -> list[Any]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def governor(layout: str) -> tuple[Any, Any]:
    """The Pod spec and the container that run Outrider."""
    ((pod, container),) = (
        (pod, container) for _, pod in pods(layout) for container in containers(pod) if container["name"] == "outrider"
    )
    return pod, container


def environment(container: Any) -> dict[str, str]:
    """What is said plainly; secrets come from elsewhere."""
    return {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}
