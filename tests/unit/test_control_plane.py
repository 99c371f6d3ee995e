"""The people's listener, asked over real sockets: a sidecar in this process, a slow HTTP tool server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from outrider import wire
from outrider.control.console import OPEN as CONSOLE_OPEN
from outrider.control_bodies import KillBody, LedgerQuery, NoBody, ReasonBody, SettleBody, parse_moment, read_body
from outrider.control_plane import MAX_BODY_BYTES, ROUTES
from outrider.errors import Refused
from outrider.ledger.verify import verify
from outrider.settings import Address, Settings
from outrider.sidecar import Sidecar
from outrider.wire import PROTOCOL
from tests.unit.test_telemetry import parse

ROOT = Path(__file__).resolve().parents[2]
METRICS_TOKEN = "a-token-for-prometheus-only"
POLICY = """
apiVersion: outrider.dev/v1alpha1
kind: Policy
metadata: {{name: people}}
upstreams:
  pay:
    http: {{url: "{url}"}}
    health: {{readiness: {{http: /healthz}}}}
tools:
  - {{match: "pay.*", effect: write}}
  - {{match: "pay.get_*", effect: read}}
rules:
  - {{name: all, tools: ["*"], then: allow}}
"""


class Plane:
    """A sidecar and the two ways to ask it."""

    def __init__(self, sidecar: Sidecar, session: aiohttp.ClientSession, folder: Path) -> None:
        self.sidecar, self.session, self.folder = sidecar, session, folder
        self.base = f"http://{sidecar.control}"
        self.release = asyncio.Event()
        self.admin = (folder / "data" / "admin.token").read_text().strip()
        self.agent = (folder / "data" / "agent.token").read_text().strip()

    async def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        token = self.admin if token is None else token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        async with self.session.request(method, self.base + path, data=data, headers=headers) as response:
            text = await response.text()
            kind = response.headers.get("Content-Type", "")
            return response.status, json.loads(text) if "json" in kind else text

    def call(self, tool: str, agent: str = "ann", run: str = "r1") -> asyncio.Task[tuple[int, Any]]:
        """A governed call, under way."""

        async def make() -> tuple[int, Any]:
            body = {"tool": tool, "args": {"n": 1}, "agent": agent, "run": run}
            headers = {"Authorization": f"Bearer {self.agent}"}
            url = f"http://{self.sidecar.listen}/v1/call"
            async with self.session.post(url, json=body, headers=headers) as response:
                return response.status, await response.json(content_type=None)

        return asyncio.create_task(make())

    async def until(self, path: str, ready: Any) -> Any:
        """What ``path`` shows once ``ready`` says so; virtual patience of five seconds."""
        for _ in range(500):
            _, body = await self.ask("GET", path)
            if ready(body):
                return body
            await asyncio.sleep(0.01)
        raise AssertionError(f"{path} never became so: {body}")


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    held: list[Plane] = []

    async def tool(request: web.Request) -> web.Response:
        if request.path != "/healthz":
            await held[0].release.wait()
        return web.json_response({"done": True})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", tool)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(TestServer(app))
        (tmp_path / "policy").mkdir()
        (tmp_path / "policy" / "p.yaml").write_text(POLICY.format(url=f"http://127.0.0.1:{server.port}"))
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "metrics.token").write_text(METRICS_TOKEN)
        settings = Settings(
            tmp_path / "policy",
            tmp_path / "data",
            Address("127.0.0.1", 0),
            Address("127.0.0.1", 0),
            drain_timeout_s=0.0,
        )
        sidecar = await Sidecar.start(settings)
        stack.push_async_callback(sidecar.stop)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        held.append(Plane(sidecar, session, tmp_path))
        await held[0].until("/v1/upstreams", lambda body: all(one["health"]["ready"] for one in body["upstreams"]))
        yield held[0]
        held[0].release.set()


# ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["{n}", "a/b", "%2e", "a?b#c"])
async def test_an_agent_can_be_stopped_whatever_it_calls_itself(plane: Plane, name: str) -> None:
    """Agents choose their names; one that no path could hold would not be stopped."""
    path = f"/v1/agents/{quote(name, safe='')}/cordon"
    status, told = await plane.ask("POST", path, {"reason": "wild"})
    assert (status, told["name"], told["commanded"]["state"]) == (200, name, "cordoned")


async def test_every_route_needs_the_admin_token_but_the_probes(plane: Plane) -> None:
    """None: 401. The agents': 403. Prometheus': 403 but for its page. Another: 401."""
    for method, path, _ in ROUTES:
        path = path.replace("{id}", "x")
        if (method, path) in CONSOLE_OPEN or path.startswith("/console/"):
            continue  # tests/unit/test_console.py
        if path in ("/livez", "/readyz"):
            assert await plane.ask(method, path, token="") == (200, "ok\n")
            continue
        for token, status in (("", 401), (plane.agent, 403), (plane.admin + "x", 401), ("ä" * 30, 401)):
            answered, body = await plane.ask(method, path, token=token)
            assert (answered, body["code"]) == (status, {401: "unauthenticated", 403: "forbidden"}[status]), path
        answered, _ = await plane.ask(method, path, token=METRICS_TOKEN)
        assert answered == (200 if path == "/metrics" else 403)


async def test_a_refused_credential_says_what_to_send(plane: Plane) -> None:
    """Golden sentences."""
    sentences = [(await plane.ask("GET", "/v1/kills", token=token))[1]["detail"] for token in ("", plane.agent, "x")]
    assert sentences == [
        "Send 'Authorization: Bearer TOKEN' with the admin token (the file admin.token in the data folder).",
        "This is the agents' token; the control plane is for people.",
        "This is not the admin token of this sidecar.",
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-origin", "Host": "evil.example:7071"},
        {"Origin": "http://evil.example:7071", "Host": "evil.example:7071"},
    ],
)
async def test_pages_of_other_origins_are_refused(plane: Plane, headers: dict[str, str]) -> None:
    """Even with the token, and even where their name was pointed at this machine."""
    status, body = await plane.ask("GET", "/v1/kills", **headers)
    assert (status, body["code"]) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1:1", "[::1]:1", "outrider.localhost"])
async def test_a_page_of_this_listener_and_programs_with_any_name_may(plane: Plane, host: str) -> None:
    """A service name in a cluster is no page."""
    assert (await plane.ask("GET", "/v1/kills", **{"Sec-Fetch-Site": "same-origin", "Host": host}))[0] == 200
    assert (await plane.ask("GET", "/v1/kills", Host="outrider.default.svc"))[0] == 200


async def test_what_is_not_there_is_a_problem_too(plane: Plane) -> None:
    """404 and 405 as application/problem+json."""
    assert (await plane.ask("GET", "/v2/nothing"))[1]["code"] == "not_found"
    status, body = await plane.ask("PATCH", "/v1/kills")
    assert (status, "GET" in body["detail"]) == (405, True)


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("shape", "raw", "faults"),
    [
        (KillBody, b"", ["the body is not JSON: Input data was truncated"]),
        (KillBody, b"[1]", ["the body is not a JSON object"]),
        (KillBody, b"[" * 5000, ["the body is not JSON: "]),
        (KillBody, b'{"scope": "\xff"}', ["the body is not JSON: "]),
        (
            KillBody,
            b'{"scop": "global", "reason": " ", "ttl": 5}',
            [
                "'scop' is not known; did you mean 'scope'?",
                "'scope' is missing",
                "'reason' is empty; say why, for those who read it later",
                "'ttl' 5 has no unit; write for example '5s', or leave it out",
            ],
        ),
        (KillBody, b'{"scope": 1, "reason": "x"}', ["'scope' is wrong: Expected `str`, got `int`"]),
        (
            KillBody,
            b'{"scope": "global", "reason": "x", "ttl": "soon"}',
            ["'ttl' 'soon' is not a time to last; write for example 30s, 15m or 2h, or leave it out"],
        ),
        (KillBody, b'{"scope": "global", "reason": "x", "ttl": "0s"}', ["'ttl' '0s' is not a time to last"]),
        (KillBody, b'{"scope": "global", "reason": "x", "ttl": true}', ["'ttl' is wrong: "]),
        (ReasonBody, b"{}", ["'reason' is missing"]),
        (
            SettleBody,
            b'{"as": "done", "reason": ""}',
            ["'as' is wrong: Invalid enum value 'done'", "'reason' is empty"],
        ),
        (NoBody, b'{"force": true}', ["'force' is not known; known are none"]),
    ],
)
def test_every_fault_of_a_body_is_told_at_once(shape: Any, raw: bytes, faults: list[str]) -> None:
    """What is wrong, where, and what to write instead."""
    with pytest.raises(Refused) as refusal:
        read_body(raw, shape)
    told = str(refusal.value)
    assert told.startswith("The request cannot be understood: ")
    for fault in faults:
        assert fault in told
    assert len(refusal.value.problem["errors"]) == len(faults)
    assert refusal.value.code == "invalid_request"


def test_good_bodies_are_read() -> None:
    """Null is as good as nothing."""
    assert read_body(b'{"scope": "global", "reason": "x", "ttl": "1m30s"}', KillBody).ttl_s() == 90
    assert read_body(b'{"scope": "global", "reason": "x", "ttl": null}', KillBody).ttl_s() is None
    assert read_body(b"", NoBody) == NoBody()
    assert read_body(b'{"as": "executed", "reason": "x"}', SettleBody).as_ == "executed"


def test_every_fault_of_a_query_is_told_at_once() -> None:
    """A misspelt filter must not look like one that matched everything."""
    with pytest.raises(Refused, match="'limit' 'ten' is not a whole number; 'before' '-1' is not a whole number"):
        LedgerQuery.read({"since": "15m", "limit": "ten", "before": "-1"})
    with pytest.raises(Refused, match="'since' 'yesterday' is no time; write 15m"):
        LedgerQuery.read({"since": "yesterday"})
    with pytest.raises(Refused, match="'agnet' is not known; did you mean 'agent'"):
        LedgerQuery.read({"agnet": "x"})
    with pytest.raises(Refused, match="'after' takes no filter"):
        LedgerQuery.read({"after": "1", "agent": "x"})


def test_a_moment_is_so_long_ago_or_a_time() -> None:
    """UTC where it names no zone; a plus that a query turned into a blank is one."""
    assert parse_moment("2026-11-22T15:00:00Z") == 1795359600
    assert parse_moment("2026-11-22T16:00:00+01:00") == parse_moment("2026-11-22T16:00:00 01:00") == 1795359600
    assert parse_moment("2026-11-22") == 1795305600
    assert parse_moment("15m") is not None
    assert parse_moment("tomorrow") is None


async def test_a_body_is_bounded(plane: Plane) -> None:
    """413, with and without an announced length."""
    status, body = await plane.ask("POST", "/v1/kills", b'{"scope": "' + b"x" * MAX_BODY_BYTES + b'"}')
    assert (status, body["code"]) == (413, "too_large")


# ── kills ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_kill_answers_with_a_receipt_of_what_became_of_each_call(plane: Plane) -> None:
    """One call of the agent is in flight and may have run; another agent's goes on."""
    ours, theirs = plane.call("pay.out"), plane.call("pay.get_x", agent="bob")
    await plane.until("/v1/calls?state=in_flight", lambda body: sum(call["sent"] for call in body["calls"]) == 2)
    status, receipt = await plane.ask(
        "POST", "/v1/kills", {"scope": "agent:ann", "reason": "it loops"}, **{"Outrider-Actor": "eve"}
    )
    assert status == 201
    assert set(receipt) == {
        *("id", "scope", "took_ms", "counts", "calls", "durable"),
        *("sidecar", "complete", "peers"),
    }
    assert (receipt["scope"], receipt["durable"]) == ("agent:ann", True)
    assert receipt["counts"] == {"not_executed": 0, "completed": 0, "unknown": 1}
    (call,) = receipt["calls"]
    assert (call["agent"], call["tool"], call["result"]) == ("ann", "pay.out", "unknown")
    assert (await ours)[1]["code"] == "killed"
    assert (await plane.call("pay.get_x"))[1]["code"] == "killed"
    _, listed = await plane.ask("GET", "/v1/kills")
    assert [(kill["id"], kill["by"], kill["reason"]) for kill in listed["kills"]] == [
        (receipt["id"], "token:admin (eve)", "it loops")
    ]
    plane.release.set()
    assert (await theirs)[0] == 200


async def test_a_kill_is_lifted_with_a_reason_and_stays_in_the_history(plane: Plane) -> None:
    """Unknown ids are 404, a missing reason 400."""
    _, receipt = await plane.ask("POST", "/v1/kills", {"scope": "global", "reason": "x", "ttl": "1h"})
    path = f"/v1/kills/{receipt['id']}"
    assert (await plane.ask("DELETE", path))[0] == 400
    assert (await plane.ask("DELETE", path, {"reason": " "}))[0] == 400
    status, lifted = await plane.ask("DELETE", path, {"reason": "mended"})
    assert (status, lifted["scope"], lifted["lifted"]) == (200, "global", True)
    assert (await plane.ask("DELETE", path, {"reason": "mended"}))[1]["code"] == "not_found"
    _, listed = await plane.ask("GET", "/v1/kills?history=true")
    assert (listed["kills"], listed["lifted"][0]["lift_reason"]) == ([], "mended")
    assert "lifted" not in (await plane.ask("GET", "/v1/kills"))[1]


@pytest.mark.parametrize("ttl", ["150ms", None])
async def test_the_agents_processes_are_told_that_a_kill_is_over(plane: Plane, ttl: str | None) -> None:
    """Whether its time was over or a person lifted it."""
    headers = {"Authorization": f"Bearer {plane.agent}"}
    async with plane.session.ws_connect(f"http://{plane.sidecar.listen}/v1/channel", headers=headers) as socket:
        await socket.send_str(wire.encode_frame(wire.Hello(PROTOCOL, "ann", "plain", "i1", "k" * 32)).decode())
        _, receipt = await plane.ask("POST", "/v1/kills", {"scope": "agent:ann", "reason": "x", "ttl": ttl})
        if ttl is None:
            await plane.ask("DELETE", f"/v1/kills/{receipt['id']}", {"reason": "over"})
        told: list[tuple[str, str]] = []
        async with asyncio.timeout(10):
            while len(told) < 2:
                frame = wire.decode_from_gateway.decode((await socket.receive()).data)
                told += [(frame.state, frame.reason)] if isinstance(frame, wire.Lifecycle) else []
        assert told == [("killed", "agent:ann"), ("revived", "agent:ann")]


async def test_a_person_who_closes_the_window_leaves_no_kill_half_done(plane: Plane) -> None:
    """The connection goes while the receipt waits: the calls are stopped all the same."""
    call = plane.call("pay.out")
    await plane.until("/v1/calls", lambda body: any(one["sent"] for one in body["calls"]))
    asking = asyncio.create_task(plane.ask("POST", "/v1/kills", {"scope": "global", "reason": "x"}))
    await plane.until("/v1/kills", lambda body: body["kills"])
    asking.cancel()
    assert (await call)[1]["code"] == "killed"


async def test_a_scope_that_cannot_be_understood_is_explained(plane: Plane) -> None:
    """The board's own sentence, as a problem."""
    status, body = await plane.ask("POST", "/v1/kills", {"scope": "agnt:x", "reason": "x"})
    assert (status, body["code"]) == (400, "invalid_request")
    assert body["detail"].startswith("The scope 'agnt:x' is none that exists. Write global, agent:NAME")


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_calls_under_way_and_agents_are_shown(plane: Plane) -> None:
    """While they are; ended calls are the ledger's."""
    call = plane.call("pay.out")
    body = await plane.until("/v1/calls?state=in_flight", lambda body: any(one["sent"] for one in body["calls"]))
    (shown,) = body["calls"]
    assert (shown["tool"], shown["agent"], shown["run"], shown["attempts"]) == ("pay.out", "ann", "r1", 1)
    assert shown["took_ms"] >= 0
    assert shown["deadline_in_ms"] > 0
    plane.release.set()
    await call
    assert (await plane.ask("GET", "/v1/calls"))[1] == {"calls": [], "peers": []}
    assert (await plane.ask("GET", "/v1/calls?state=done"))[0] == 400
    (agent,) = (await plane.ask("GET", "/v1/agents"))[1]["agents"]
    assert (agent["name"], agent["calls"], agent["in_flight"]) == ("ann", 1, 0)


async def test_upstreams_are_shown_with_health_and_breakers(plane: Plane) -> None:
    """By the policy's names."""
    plane.release.set()
    await plane.call("pay.get_x")
    _, body = await plane.ask("GET", "/v1/upstreams")
    shown = {upstream["name"]: upstream for upstream in body["upstreams"]}
    assert set(shown) == {"pay", "local"}
    assert shown["pay"]["health"]["last"] == "GET /healthz answered 200"
    assert shown["pay"]["domains"][0]["breaker"]["state"] == "closed"


async def test_the_ledger_is_searched_page_by_page_and_followed(plane: Plane) -> None:
    """Newest first below ``before``; oldest first after ``after``; one call with its arguments."""
    plane.release.set()
    _, answer = await plane.call("pay.get_x")
    _, found = await plane.ask("GET", f"/v1/ledger?call_id={answer['call_id']}")
    assert [record["type"] for record in found["records"]][::-1] == [
        "call.received", "call.decided", "attempt.started", "attempt.finished", "call.finished",
    ]  # fmt: skip
    _, first = await plane.ask("GET", "/v1/ledger?limit=2&since=1h&agent=ann&tool=pay.*")
    _, second = await plane.ask("GET", f"/v1/ledger?limit=2&agent=ann&before={first['next_before']}")
    numbers = [record["seq"] for record in first["records"] + second["records"]]
    assert numbers == sorted(numbers, reverse=True)
    _, after = await plane.ask("GET", f"/v1/ledger?after={numbers[1]}&limit=10")
    assert [record["seq"] for record in after["records"]] == [numbers[0]]
    _, call = await plane.ask("GET", f"/v1/calls/{answer['call_id']}")
    assert call["records"][0]["args"] == {"n": 1}
    assert (await plane.ask("GET", "/v1/calls/nothing"))[0] == 404


async def test_what_a_call_was_given_and_what_it_brought_is_erased(plane: Plane) -> None:
    """Once it has ended, with a reason; the chain still verifies, and who did it is recorded."""
    call = plane.call("pay.get_x")
    calls = await plane.until("/v1/calls", lambda body: any(one["sent"] for one in body["calls"]))
    path = f"/v1/ledger/{calls['calls'][0]['call_id']}/erase"
    status, told = await plane.ask("POST", path, {"reason": "asked to be forgotten"})
    assert (status, told["code"]) == (409, "conflict")
    assert "still under way" in told["detail"]
    plane.release.set()
    call_id = (await call)[1]["call_id"]
    assert (await plane.ask("POST", path, {}))[0] == 400
    status, erased = await plane.ask("POST", path, {"reason": "asked to be forgotten"}, **{"Outrider-Actor": "dpo"})
    assert (status, erased["call_id"], erased["by"]) == (200, call_id, "token:admin (dpo)")
    _, shown = await plane.ask("GET", f"/v1/calls/{call_id}")
    values = [record[kind] for record in shown["records"] for kind in ("args", "result") if kind in record]
    assert values == [{"«erased»": True}, {"«erased»": True}]
    last = shown["records"][-1]
    assert (last["type"], last["seq"], last["reason"], last["actor"]) == (
        "payload.erased", erased["seq"], "asked to be forgotten", "token:admin (dpo)",
    )  # fmt: skip
    assert verify(plane.folder / "data").ok
    assert (await plane.ask("POST", "/v1/ledger/nothing/erase", {"reason": "x"}))[0] == 404


async def test_an_unknown_outcome_is_settled_once(plane: Plane) -> None:
    """A write that was killed in flight may have run; a person finds out."""
    call = plane.call("pay.out")
    await plane.until("/v1/calls", lambda body: any(one["sent"] for one in body["calls"]))
    _, receipt = await plane.ask("POST", "/v1/kills", {"scope": "run:r1", "reason": "x"})
    call_id = (await call)[1]["call_id"]
    await plane.ask("DELETE", f"/v1/kills/{receipt['id']}", {"reason": "over"})
    assert (await plane.call("pay.out"))[1]["code"] == "prior_outcome_unknown"
    path = f"/v1/calls/{call_id}/settle"
    assert (await plane.ask("POST", path, {"as": "maybe", "reason": "x"}))[0] == 400
    status, settled = await plane.ask("POST", path, {"as": "not_executed", "reason": "asked the bank"})
    assert (status, settled["call_id"], settled["settled"]) == (200, call_id, "not_executed")
    assert (await plane.ask("POST", path, {"as": "not_executed", "reason": "again"}))[0] == 404
    plane.release.set()
    assert (await plane.call("pay.out"))[0] == 200


async def test_the_policy_is_shown_reloaded_and_a_bad_one_refused_with_all_faults(plane: Plane) -> None:
    """The old one stays in force, and the refusal stays visible."""
    _, before = await plane.ask("GET", "/v1/policy")
    assert (before["name"], before["rejected"]) == ("people", [])
    assert (await plane.ask("POST", "/v1/policy/reload"))[1]["changed"] is False
    file = plane.folder / "policy" / "p.yaml"
    good = file.read_text()
    file.write_text(good.replace("effect: write", "efect: write").replace("then: allow", "then: maybe"))
    status, refused = await plane.ask("POST", "/v1/policy/reload", {})
    assert (status, refused["code"]) == (422, "invalid_request")
    assert len(refused["faults"]) >= 2
    _, after = await plane.ask("GET", "/v1/policy")
    assert after["digest"] == before["digest"]
    assert after["rejected"] == refused["faults"]
    file.write_text(good.replace("name: people", "name: persons"))
    status, reloaded = await plane.ask("POST", "/v1/policy/reload")
    assert (status, reloaded["digest"] != before["digest"]) == (200, True)
    assert (await plane.ask("GET", "/v1/policy"))[1]["name"] == "persons"


async def test_readyz_says_why_not(plane: Plane) -> None:
    """While it drains it takes no calls; it is alive all the same."""
    plane.sidecar.services.supervisor._traffic.draining = True
    assert await plane.ask("GET", "/readyz", token="") == (503, "not ready: shutting down\n")
    assert await plane.ask("GET", "/livez", token="") == (200, "ok\n")
    plane.sidecar.services.supervisor._traffic.draining = False


# ── what is written about it ─────────────────────────────────────────────────────────────────────────────────────


def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    """docs/control-plane.md has one table row for each."""
    text = (ROOT / "docs" / "control-plane.md").read_text()
    written = set(re.findall(r"^\| `([A-Z]+) ([^ `?]+)[^`]*`", text, re.MULTILINE))
    assert written == {(method, path) for method, path, _ in ROUTES}


async def test_every_metric_is_documented_and_every_documented_metric_exists(plane: Plane) -> None:
    """docs/metrics.md: name, kind and labels."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    written = set(re.findall(r"^\| `(outrider_\w+)` \| (\w+) \| ([^|]*) \|", text, re.MULTILINE))
    known = plane.sidecar.services.telemetry.names()
    exist = {(name, kind, ", ".join(f"`{label}`" for label in labels)) for name, kind, labels, _ in known}
    assert {(name, kind, labels.strip()) for name, kind, labels in written} == exist


async def test_the_metrics_of_a_running_sidecar_are_valid_and_named_ours(plane: Plane) -> None:
    """With gauges of every part."""
    plane.release.set()
    await plane.call("pay.get_x")
    await plane.ask("POST", "/v1/kills", {"scope": "agent:x*", "reason": "x"})
    _, text = await plane.ask("GET", "/metrics", token=METRICS_TOKEN)
    samples = parse(text.encode())
    assert all(name.startswith("outrider_") for name in samples)
    assert samples['outrider_kills_engaged{kind="agent"}'] == 1
    assert samples['outrider_breakers{upstream="pay",state="closed"}'] == 1
    assert samples['outrider_upstream_ready{upstream="pay"}'] == 1
    assert samples["outrider_ledger_healthy"] == 1
    assert samples["outrider_ready"] == 1
    assert samples["outrider_calls_in_flight"] == 0
    assert samples['outrider_call_duration_seconds_count{upstream="pay"}'] == 1
