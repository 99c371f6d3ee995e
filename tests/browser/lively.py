"""Something to look at: flaky services over HTTP and agents that call them, for screenshots."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from outrider.testing.gateway import GatewayProcess

AGENTS = ("researcher", "support-triage", "billing", "release-notes", "travel-desk", "data-steward")
TOOLS = {
    "search": ["search.web", "search.news"],
    "crm": ["crm.get_customer", "crm.list_tickets", "crm.add_note"],
    "billing": ["billing.get_invoice", "billing.refund"],
    "weather": ["weather.today"],
    "mail": ["mail.send"],
}
FAILS = {"search": 0.22, "crm": 0.08, "billing": 0.05, "weather": 0.9, "mail": 0.02}


class _Flaky(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.path.split("/")[1]
        time.sleep(random.expovariate(12) if name != "mail" else random.uniform(1, 7))
        bad = random.random() < FAILS[name]
        body = b'{"error": "unavailable"}' if bad else b'{"found": 3}'
        self.send_response(503 if bad else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # who asked was stopped
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


class Services:
    """The services, while inside ``with``."""

    def __enter__(self) -> Services:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Flaky)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def policy(self) -> dict[str, Any]:
        """Retries for reads, a breaker, and one tool that nobody may call."""
        return {
            "metadata": {"name": "operations"},
            "agents": {
                "expected": [
                    {"name": "researcher", "owner": "science"},
                    {"name": "support-*", "owner": "support"},
                    {"name": "billing", "owner": "finance"},
                    {"name": "release-notes", "owner": "platform"},
                    {"name": "travel-desk", "owner": "office"},
                ]
            },
            "domain": {"breaker": {"window": "20s", "minCalls": 10, "failureRatio": 0.5, "openFor": "10s"}},
            "upstreams": {name: {"http": {"url": f"{self.url}/{name}"}} for name in TOOLS},
            "tools": [
                {"match": "*", "effect": "read", "retry": {"maxAttempts": 3, "backoff": {"initial": "50ms"}}},
                {"match": "mail.*", "effect": "write"},
                {"match": "billing.refund", "effect": "write"},
            ],
            "rules": [
                {
                    "name": "no refunds by agents",
                    "tools": ["billing.refund"],
                    "then": "deny",
                    "reason": "a person does",
                },
                {"name": "everything else", "tools": ["*"], "then": "allow"},
            ],
        }


class Crowd:
    """Agents at work, while inside ``with``; ``pace_s`` is how long one rests between two calls."""

    def __init__(self, gateway: GatewayProcess, pace_s: float = 0.25) -> None:
        self._gateway, self._pace_s = gateway, pace_s
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(name,), daemon=True) for name in AGENTS * 2]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)

    def _work(self, name: str) -> None:
        run = f"{name}-{random.randrange(16**6):06x}"
        while not self._over.wait(random.expovariate(1 / self._pace_s)):
            group = random.choices(list(TOOLS), weights=[5, 5, 3, 1, 1])[0]
            self._gateway.call(random.choice(TOOLS[group]), {"q": random.randrange(1000)}, agent=name, run=run)
