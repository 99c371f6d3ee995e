"""What the frameworks' adapters share: who may name the agent, and what a model is told."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from outrider_adapters import views

log = logging.getLogger("outrider")


def operators_choice(agent: str | None) -> str | None:
    """``outrider run --agent`` outranks the program's own word: the operator starts it."""
    chosen = os.environ.get("OUTRIDER_RUN_AGENT", "")
    if chosen and agent and agent != chosen:
        log.warning("`outrider run --agent %s` named this process; install(agent=%r) is not followed", chosen, agent)
    return chosen or agent


def text_of(value: Any) -> str:
    """A value that the gateway made, as the text that a model reads."""
    return value if isinstance(value, str) else views.json_bytes(value).decode()


def claimed_effect(annotations: Mapping[str, Any] | None) -> str:
    """The effect that a tool's own annotations claim, by the hints of the Model Context Protocol; empty where they
    claim nothing. It is shown to people, and decides nothing."""
    if not annotations or not isinstance(reads := annotations.get("readOnlyHint"), bool):
        return ""
    if reads:
        return "read"
    return "idempotent" if annotations.get("idempotentHint") is True else "write"


def told(problem: Mapping[str, Any]) -> str:
    """What the model reads of a failure: what happened, and whether to try again makes sense."""
    detail = str(problem.get("detail") or problem.get("title") or "the call was refused")
    code, outcome = problem.get("code", ""), problem.get("outcome")
    if outcome == "unknown":
        return f"{detail} [{code}: it may have taken effect; do not repeat it before that is known]"
    again = "may be tried again later" if problem.get("retryable") else "trying again will not help"
    return f"{detail} [{code}: {again}]"
