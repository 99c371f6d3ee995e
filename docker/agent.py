"""A very small agent, for docker/compose.yaml: one tool behind the sidecar, one function of its own, again and again.

It holds no credential of a service, no address of one, and no code for retries. Yours is a LangGraph, CrewAI or AutoGen
program, started with ``outrider run -- python your_agent.py``.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from itertools import count
from pathlib import Path
from typing import Any

from outrider.errors import OutriderError
from outrider_adapters.governed import governed

URL = os.environ["OUTRIDER_URL"]
TOKEN_FILE = Path(os.environ["OUTRIDER_TOKEN_FILE"])
PAUSE_S = float(os.environ.get("PAUSE_S", "5"))
WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(tool: str, **args: Any) -> Any:
    """A tool behind the sidecar, by plain HTTP; the answer, or the problem as it is told to a model."""
    body = json.dumps({"tool": tool, "args": args, "agent": os.environ["OUTRIDER_AGENT"]}).encode()
    credential = {"Authorization": f"Bearer {TOKEN_FILE.read_text().strip()}"}
    request = urllib.request.Request(f"{URL}/v1/call", body, credential)
    try:
        with WITHOUT_PROXY.open(request, timeout=60) as answer:
            return json.load(answer)["result"]
    except urllib.error.HTTPError as problem:
        return json.load(problem)["detail"]
    except OSError as away:
        return f"no sidecar: {away}"


@governed
def exchange_rate(currency: str) -> float:
    """A function of the agent's own process: the tool ``local.exchange_rate``."""
    return {"EUR": 1.0, "GBP": 1.15}[currency]


def rate(currency: str) -> Any:
    """The function's result, or what a model would be told."""
    try:
        return exchange_rate(currency)
    except OutriderError as problem:
        return str(problem)


def main() -> None:
    for order in count(18):
        told = {
            "orders.lookup": call("orders.lookup", order=order),
            "payments.charge": call("payments.charge", order=order, amount=40),
            "local.exchange_rate": rate("GBP"),
        }
        print(json.dumps(told), flush=True)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
