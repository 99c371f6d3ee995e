"""Which versions of a framework an adapter was built and tested for; read without importing the framework."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata

from outrider.errors import Fault, Misconfigured

Range = tuple[str, str]
"""From the first version, below the second."""
LANGGRAPH: Mapping[str, Range] = {"langchain-core": ("1.7", "2"), "langgraph": ("1.2", "2")}
AUTOGEN: Mapping[str, Range] = {"autogen-core": ("0.7.5", "0.8"), "autogen-agentchat": ("0.7.5", "0.8")}
CREWAI: Mapping[str, Range] = {"crewai": ("1.15.30", "1.16")}


def check(adapter: str, supported: Mapping[str, Range]) -> dict[str, str]:
    """The installed versions. Raises Misconfigured, with every fault, when one is missing or out of its range: an
    adapter patches a framework's internals' edge, and must not guess."""
    found: dict[str, str] = {}
    faults: list[Fault] = []
    for package, (low, high) in supported.items():
        fix = f"pip install '{package}>={low},<{high}'"
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            faults.append(Fault(adapter, 0, package, "is not installed", fix))
            continue
        if not _number(low) <= _number(found[package]) < _number(high):
            message = f"{found[package]} is not supported; this adapter is made for {low} and later, below {high}"
            faults.append(Fault(adapter, 0, package, message, fix))
    if faults:
        raise Misconfigured(faults)
    return found


def _number(version: str) -> tuple[int, ...]:
    """The release part: ``1.7.2rc1`` is (1, 7, 2)."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()
