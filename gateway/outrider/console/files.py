"""The page's files, read once: there are few, and they are small."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
PAGE = "index.html"


@dataclass(frozen=True, slots=True)
class File:
    """``tag`` changes with the content: a browser asks whether it has the newest."""

    body: bytes
    content_type: str
    tag: str


def load() -> Mapping[str, File]:
    """By name."""
    folder = resources.files("outrider.console") / "static"
    return {entry.name: _file(entry.name, entry.read_bytes()) for entry in folder.iterdir() if entry.is_file()}


def _file(name: str, body: bytes) -> File:
    return File(body, TYPES[name.rpartition(".")[2]], f'"{hashlib.sha256(body).hexdigest()[:24]}"')
