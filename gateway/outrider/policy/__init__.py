"""Policy: how each tool is called, and who may call it."""

from __future__ import annotations

from importlib.resources import files


def starter() -> str:
    """The commented policy that ``outrider init`` writes: the default one, good enough to run on day one."""
    return (files(__name__) / "default.yaml").read_text("utf-8")
