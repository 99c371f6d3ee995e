"""A call of the ledger, as a question: who asked what under which policy, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from outrider.calls import Agent
from outrider.errors import Misconfigured
from outrider.ledger import query
from outrider.policy.load import SECRETS_MISSING, Policy, check_texts
from outrider.policy.rules import Facts

_TOLD = {
    "call.decided", "call.observed", "call.refused", "attempt.started", "attempt.finished", "attempt.settled",
    "call.finished", "call.settled", "recovered",
}  # fmt: skip
_SHOWN = (
    "ts", "type", "attempt", "tool", "decision", "rule", "outcome", "code", "failure", "status", "stage", "detail",
    "timing",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """``args_known`` False: the ledger keeps none of them, or they were erased. Redacted ones are known in part."""

    facts: Facts
    policy_digest: str
    args_known: bool
    story: list[dict[str, Any]]


def asked(folder: Path, call_id: str) -> Asked | None:
    """What the ledger of this data folder says of a call; None where it holds none."""
    records = query.show(folder, call_id)
    first = next((record for record in records if record.get("type") == "call.received"), None)
    if first is None:
        return None
    args, known = _args(first.get("args"))
    facts = Facts(
        tool=first.get("tool", ""),
        args=args,
        agent=_agent(first.get("agent", {})),
        run=first.get("run_id", ""),
        session=first.get("session_id", ""),
        principal=first.get("principal", ""),
        now=datetime.fromisoformat(first["ts"]).timestamp(),
        on_behalf_of=first.get("on_behalf_of", ""),
    )
    story = [{key: record[key] for key in _SHOWN if key in record} for record in records if record["type"] in _TOLD]
    return Asked(facts, first.get("policy_digest", ""), known, story)


def policy_of(folder: Path, digest: str) -> Policy:
    """The policy of that digest, from the text that is kept with the ledger. Raises Misconfigured."""
    texts = query.policy_texts(folder, digest)
    if texts is None:
        raise Misconfigured(f"The ledger does not hold the text of the policy {digest[:12]}.")
    raw = {name: text.encode() for name, text in texts.items()}
    policy, faults = check_texts(raw, folder, forgive=SECRETS_MISSING)
    if policy is None:
        raise Misconfigured([fault for fault in faults if fault.severity == "error"])
    return policy


def _agent(ref: dict[str, Any]) -> Agent:
    texts = {key: str(ref[key]) for key in ("framework", "owner", "instance") if key in ref}
    labels = {str(key): str(value) for key, value in ref.get("labels", {}).items()}
    return Agent(str(ref.get("name", "")), labels=labels, asserted=bool(ref.get("asserted", True)), **texts)


def _args(stored: Any) -> tuple[dict[str, Any], bool]:
    """The arguments as they are kept. Stubs have keys in «guillemets»: not recorded, erased, too large."""
    if not isinstance(stored, dict) or any(str(key).startswith("«") for key in stored):
        return {}, False
    return stored, True
