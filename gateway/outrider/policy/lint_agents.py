"""What is wrong inside the section ``agents``."""

from __future__ import annotations

from collections.abc import Iterator

from outrider.errors import Fault
from outrider.policy.draft import Draft
from outrider.policy.schema_agents import Agents


def check_agents(made: Draft) -> Iterator[Fault]:
    """Codes E27, E53."""
    item = made.sections.get("agents")
    section = made.section("agents", Agents)
    if item is None or section is None:
        return
    first: dict[str, int] = {}
    for index, agent in enumerate(section.expected):
        before = first.setdefault(agent.name, index)
        if before != index:
            where = item.at("expected", before, "name")
            message = f"'{agent.name}' is expected twice (first at {where}); order would decide silently."
            yield item.fault(("expected", index, "name"), "E27", message, "keep one of the two.")
    if item.whole and section.undeclared != "allow" and not section.expected:
        what = "refuses every agent" if section.undeclared == "deny" else "lets every agent only read"
        message = f"undeclared: {section.undeclared} {what}, because nobody is expected."
        yield item.fault(("undeclared",), "E53", message, "write the agents that may be here into 'expected'.")
