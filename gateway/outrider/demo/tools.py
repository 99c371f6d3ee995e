"""The agents' tools, as anyone would write them: some ask a service over HTTP, some are functions of this process.

Nothing here knows of Outrider. A tool that asks a service says in its metadata which tool of the policy it is: there
Outrider asks the service itself. Every other one is governed where it runs, as ``local.NAME``.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException

from outrider.demo.telling import tell

SHOP_URL = "SHOP_URL"
"""The environment variable with the address of the tool server."""
REFUND_S = 0.25


def _ask(path: str, args: dict[str, Any]) -> Any:
    """A plain HTTP call. Like most HTTP clients it has no timeout unless one is asked for."""
    body = json.dumps(args).encode()
    request = urllib.request.Request(os.environ[SHOP_URL] + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.loads(response.read())


def _careful(path: str, args: dict[str, Any]) -> Any:
    """The same, for tools whose authors tell the model about errors instead of letting them end the run."""
    try:
        return _ask(path, args)
    except OSError as error:
        raise ToolException(f"{type(error).__name__}: {error}") from error


def look_up(order: int) -> Any:
    """Where an order is."""
    return _ask("/orders/lookup", {"order": order})


def quote(item: str) -> Any:
    """What an item costs."""
    return _ask("/prices/quote", {"item": item})


def render(week: int) -> Any:
    """The report of a week."""
    return _ask("/reports/render", {"week": week})


def count(item: str, asked: int) -> Any:
    """How many are left."""
    return _ask("/stock/count", {"item": item, "asked": asked})


def charge(order: int, amount: int) -> Any:
    """Charge the customer's card."""
    return _careful("/payments/charge", {"order": order, "amount": amount})


def send(to: str, order: int) -> Any:
    """Write to the customer."""
    return _careful("/mail/send", {"to": to, "order": order})


_rate_asked = 0


def exchange_rate(currency: str) -> Any:
    """An in-process function whose helper is not up yet when it is first asked."""
    global _rate_asked
    _rate_asked += 1
    tell("ran", tool="exchange_rate")
    if _rate_asked <= 2:
        raise ConnectionRefusedError("the rates are still being loaded")
    return {"currency": currency, "rate": 155}


def delete_customer(customer: int) -> Any:
    """An in-process function that no letter should be able to call."""
    tell("ran", tool="delete_customer")
    return {"deleted": customer}


def refund(order: int, amount: int) -> Any:
    """An in-process function with a side effect that takes a moment."""
    tell("ran", tool="refund")
    time.sleep(REFUND_S)
    return {"order": order, "refunded": amount}


def _asks(tool: str, function: Callable[..., Any], *, tells_errors: bool = False) -> BaseTool:
    """A tool that asks a service; ``tool`` is its name in the policy."""
    return StructuredTool.from_function(
        function, name=tool.replace(".", "_"), metadata={"outrider_tool": tool}, handle_tool_error=tells_errors
    )


def desk_tools() -> list[BaseTool]:
    """What ``desk`` may use."""
    return [
        _asks("orders.lookup", look_up),
        _asks("prices.quote", quote),
        _asks("reports.render", render),
        _asks("stock.count", count),
        _asks("payments.charge", charge, tells_errors=True),
        _asks("mail.send", send, tells_errors=True),
        StructuredTool.from_function(exchange_rate),
        StructuredTool.from_function(delete_customer),
    ]


def night_tools() -> list[BaseTool]:
    """What ``night-shift`` may use."""
    return [StructuredTool.from_function(refund)]
