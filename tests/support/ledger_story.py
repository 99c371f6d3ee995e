"""Records of calls as a sidecar would have written them, without one: for what reads the ledger."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

Record = dict[str, Any]
BEGAN = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


class Story:
    """Tells calls, one after the other; ``records`` is what a reader of the ledger is given."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._ids = itertools.count(1)
        self._now = BEGAN

    def add(self, type_: str, **fields: Any) -> None:
        self._now += timedelta(milliseconds=10)
        self.records.append({"type": type_, "ts": self._now.isoformat().replace("+00:00", "Z"), **fields})

    def policy(self, digest: str) -> None:
        self.add("policy.loaded", policy_digest=digest)

    def call(
        self, agent: str, tool: str, *, took_ms: float = 10.0, decision: str = "allow", rule: str = "",
        observed: str = "", refused: str = "", failure: str = "", status: int = 0, effect: str = "write",
        upstream: str = "",
    ) -> None:  # fmt: skip
        """One call with at most one attempt. ``observed`` and ``refused`` are codes."""
        call: Record = {"call_id": f"c{next(self._ids)}", "agent": {"name": agent}, "tool": tool}
        self.add("call.received", **call)
        if decision:
            self.add("call.decided", **call, decision=decision, rule=rule)
        if observed:
            self.add("call.observed", **call, code=observed, rule=rule)
        if refused:
            self.add("call.refused", **call, code=refused, rule=rule, outcome="not_executed")
            return
        place = upstream or tool.partition(".")[0]
        self.add("attempt.started", **call, attempt=1, upstream=place, effect=effect)
        end = {"outcome": "definite", "failure": failure, "status": status} if failure else {"outcome": "ok"}
        self.add("attempt.finished", **call, attempt=1, timing={"took_ms": took_ms}, **end)
        code = {"code": "upstream_failed"} if failure else {}
        self.add("call.finished", **call, timing={"total_ms": took_ms}, outcome=end["outcome"], **code)

    def calls(self, times: int, agent: str, tool: str, **more: Any) -> None:
        for _ in range(times):
            self.call(agent, tool, **more)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)
