"""Which tools an agent is shown: of one upstream as they are, or of all with the upstream's name before each."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from outrider.calls import Agent
from outrider.mcp_wire import Message, RpcError
from outrider.policy.load import Policy
from outrider.policy.patterns import matches
from outrider.policy.plans import Upstream
from outrider.upstreams.drivers import Drivers
from outrider.upstreams.mcp.catalog import LEAST_S, MOST_S, Catalog
from outrider.upstreams.mcp.transport import McpFailure

log = logging.getLogger("outrider.mcp")

JOINT = "__"
"""Between the upstream's name and the tool's. No upstream's name holds it."""


@dataclass(frozen=True, slots=True)
class Listed:
    """``tools`` in an order that does not change by itself. ``fresh_s``: for how long a client may keep them."""

    tools: tuple[Message, ...]
    fresh_s: float


@dataclass(frozen=True, slots=True)
class For:
    """Who the list is for. ``scope``: the only tools that its credential is good for, () for no such limit."""

    agent: Agent
    scope: tuple[str, ...] = ()

    def sees(self, policy: Policy, tool: str) -> bool:
        """Whether some call of it could be allowed. A condition is asked when it is called."""
        if policy.observes:
            return True
        in_scope = not self.scope or any(matches(pattern, tool) for pattern in self.scope)
        return in_scope and policy.rules.may(tool, self.agent.name)


def shown(policy: Policy, drivers: Drivers, upstream: Upstream, who: For, catalog: Catalog) -> list[Message]:
    """The tools of one server that this agent may see, in the server's order. What has drifted is left out where its
    calls are refused."""
    watch = drivers.watch_of(upstream)
    return [
        tool
        for name, tool in catalog.tools.items()
        if who.sees(policy, f"{upstream.name}.{name}") and not watch.against(name)
    ]


async def of_one(policy: Policy, drivers: Drivers, upstream: Upstream, who: For) -> Listed:
    """Raises McpFailure, RpcError and ValueError where the server cannot be asked."""
    driver = drivers.mcp(upstream)
    assert driver is not None
    catalog = await driver.catalog()
    return Listed(tuple(shown(policy, drivers, upstream, who, catalog)), catalog.fresh_s)


async def of_all(policy: Policy, drivers: Drivers, who: For) -> Listed:
    """The tools of every MCP server that can be asked now, by upstream and name. One that cannot is left out, and the
    list is kept for a moment only."""
    upstreams = [upstream for upstream in policy.upstreams.values() if upstream.mcp is not None]
    found = await asyncio.gather(*(_quietly(policy, drivers, upstream, who) for upstream in upstreams))
    tools = [
        {**tool, "name": f"{upstream.name}{JOINT}{tool['name']}"}
        for upstream, listed in zip(upstreams, found, strict=True)
        for tool in listed.tools
    ]
    fresh_s = min((listed.fresh_s for listed in found), default=MOST_S)
    return Listed(tuple(sorted(tools, key=lambda tool: str(tool["name"]))), fresh_s)


async def _quietly(policy: Policy, drivers: Drivers, upstream: Upstream, who: For) -> Listed:
    try:
        return await of_one(policy, drivers, upstream, who)
    except (McpFailure, RpcError, ValueError) as error:
        log.warning("the tools of %s cannot be listed: %s", upstream.name, error)
        return Listed((), LEAST_S)


def split(name: str) -> tuple[str, str]:
    """Upstream and operation of an aggregated name; the first is empty where it is none."""
    upstream, joint, operation = name.partition(JOINT)
    return (upstream, operation) if joint and operation else ("", name)
