"""Tokens of agents against a real sidecar: what they prove, what they never allow, and that nothing revoked passes,
also after SIGKILL and under load."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from outrider.cli import main
from outrider.ledger import query
from outrider.ledger.verify import verify
from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import hold, respond, unavailable
from outrider.testing.upstream_process import UpstreamProcess
from tests.support.real_gateway import lift_all

RULES = [
    {"name": "labelled", "tools": ["pay.labelled"], "when": 'agent.labels.team == "red"', "then": "allow"},
    {"name": "owned", "tools": ["pay.owned"], "when": 'agent.owner == "ann"', "then": "allow"},
    {"name": "no secrets", "tools": ["pay.secret"], "then": "deny"},
    {"name": "reads", "tools": ["pay.get*", "pay.out", "pay.flaky", "pay.secret"], "then": "allow"},
]


def policy(url: str, **more: Any) -> dict[str, Any]:
    return {
        "upstreams": {"pay": {"http": {"url": url}}},
        "tools": [{"match": "pay.*", "effect": "read"}, {"match": "pay.out", "effect": "write"}],
        "rules": RULES,
        **more,
    }


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamProcess]:
    with UpstreamProcess() as running:
        running.replace_script(
            {f"/{name}": [respond(json={"ok": True})] for name in ("get", "get2", "labelled", "owned", "secret")}
            | {"/out": [hold(json="paid")], "/flaky": [unavailable(retry_after_s=10)]}
        )
        yield running


@pytest.fixture(scope="module")
def shared_gateway(upstream: UpstreamProcess) -> Iterator[GatewayProcess]:
    with GatewayProcess(policy(upstream.url)) as running:
        yield running


@pytest.fixture
def gateway(shared_gateway: GatewayProcess) -> Iterator[GatewayProcess]:
    yield shared_gateway
    lift_all(shared_gateway)


def issue(gateway: GatewayProcess, agent: str, **more: Any) -> dict[str, Any]:
    status, made = gateway.control("POST", "/v1/tokens", {"agent": agent, **more})
    assert status == 201, made
    return made


def revoke(gateway: GatewayProcess, made: dict[str, Any], reason: str = "a test") -> None:
    status, told = gateway.control("DELETE", f"/v1/tokens/{made['id']}", {"reason": reason})
    assert status == 200 and told["durable"], told


def call(gateway: GatewayProcess, token: str, tool: str = "pay.get", **named: Any) -> tuple[int, Any]:
    return gateway.request("POST", f"{gateway.url}/v1/call", {"tool": tool, **named}, token)


def eventually(holds: Callable[[], Any], patience_s: float = 20.0) -> Any:
    end = time.monotonic() + patience_s
    while not (found := holds()):
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)
    return found


def records(gateway: GatewayProcess, **wanted: Any) -> list[dict[str, Any]]:
    return gateway.control("GET", f"/v1/ledger?{urlencode(wanted)}")[1]["records"]


def refused(gateway: GatewayProcess, token: str) -> dict[str, Any] | None:
    """What a call with it is told, None while it passes."""
    status, told = call(gateway, token)
    return told if status == 401 else None


# ── what a token proves ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_names_its_agent_and_no_other(gateway: GatewayProcess) -> None:
    """The name may be left out; another's is refused, in the body and in the header, with what to do about it."""
    token = issue(gateway, "researcher", also=["helper"], owner="ann", labels={"team": "red"})["token"]
    status, answer = call(gateway, token)
    assert status == 200
    (received,) = records(gateway, type="call.received", call_id=answer["call_id"])
    assert received["agent"] == {
        "name": "researcher", "asserted": False, "owner": "ann", "labels": {"team": "red"},
    }  # fmt: skip
    assert received["principal"] == f"token:{token[4:16]}"
    assert call(gateway, token, agent="researcher")[0] == call(gateway, token, agent="helper")[0] == 200
    status, told = call(gateway, token, agent="ops")
    assert (status, told["code"]) == (403, "forbidden")
    assert "is of agent 'researcher', 'helper', and this calls as 'ops'" in told["detail"]
    headers = {"Outrider-Agent": "ops"}
    assert gateway.request("POST", f"{gateway.url}/v1/call", {"tool": "pay.get"}, token, headers)[0] == 403


def test_conditions_see_the_owner_and_labels_of_the_token(gateway: GatewayProcess) -> None:
    """They come from the credential, which the agent cannot write."""
    known = issue(gateway, "a", owner="ann", labels={"team": "red"})["token"]
    unknown = issue(gateway, "a")["token"]
    assert call(gateway, known, "pay.labelled")[0] == call(gateway, known, "pay.owned")[0] == 200
    assert call(gateway, unknown, "pay.labelled")[0] == call(gateway, unknown, "pay.owned")[0] == 403


def test_a_scope_narrows_and_never_widens(gateway: GatewayProcess) -> None:
    """Outside it a call is refused with the scope; inside it the rules decide as ever."""
    token = issue(gateway, "a", tools=["pay.get", "pay.sec*"])["token"]
    assert call(gateway, token, "pay.get")[0] == 200
    status, told = call(gateway, token, "pay.get2")
    assert (status, told["code"]) == (403, "denied") and "scoped to pay.get, pay.sec*" in told["detail"]
    status, told = call(gateway, token, "pay.secret")
    assert (status, told["code"], told["rule"]) == (403, "denied", "no secrets")


def test_a_token_is_over_when_its_time_is(gateway: GatewayProcess) -> None:
    """It says so, and stands in the list's history as expired."""
    made = issue(gateway, "short", expires="1s")
    assert call(gateway, made["token"])[0] == 200
    told = eventually(lambda: refused(gateway, made["token"]))
    assert told["detail"].startswith(f"The token {made['id']} has expired.")
    listed = {token["id"]: token for token in gateway.control("GET", "/v1/tokens?history=true")[1]["tokens"]}
    assert listed[made["id"]]["state"] == "expired"
    assert made["id"] not in {token["id"] for token in gateway.control("GET", "/v1/tokens")[1]["tokens"]}


def test_a_token_opens_nothing_else(gateway: GatewayProcess) -> None:
    """Not the control plane; and a text that merely looks like one opens nothing."""
    made = issue(gateway, "a")
    status, told = gateway.control("GET", "/v1/tokens", token=made["token"])
    assert (status, told["code"]) == (403, "forbidden")
    for wrong in (made["token"][:-1], made["token"] + "x", f"ort_{made['id']}_", f"ort_{made['id']}", "ort_", "ort_ü"):
        assert call(gateway, wrong.encode().decode("latin-1"))[0] == 401, wrong


def test_the_secret_is_nowhere(gateway: GatewayProcess) -> None:
    """Not in the data folder, not in lists, not in the ledger, not in the log."""
    made = issue(gateway, "a")
    secret = made["token"].split("_", 2)[2]
    assert call(gateway, made["token"])[0] == 200
    assert secret not in json.dumps(gateway.control("GET", "/v1/tokens?history=true")[1])
    for path in gateway.data.iterdir():
        assert path.name == "reserve" or secret.encode() not in path.read_bytes(), path
    assert secret not in gateway.log


# ── revoking ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_revoked_token_says_who_may_help(gateway: GatewayProcess) -> None:
    """With the reason, and how to get a new one."""
    made = issue(gateway, "researcher")
    revoke(gateway, made, "it was in a screenshot")
    status, told = call(gateway, made["token"])
    assert (status, told["code"]) == (401, "unauthenticated")
    assert told["detail"] == (
        f"The token {made['id']} was revoked: it was in a screenshot. A person issues a new one with: outrider tokens "
        "issue researcher"
    )


def test_revoking_leaves_what_was_sent_to_end(gateway: GatewayProcess, upstream: UpstreamProcess) -> None:
    """A write on its way is not torn away: how it ended is learnt and told."""
    made = issue(gateway, "a")
    upstream.clear()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(call, gateway, made["token"], "pay.out")
        upstream.wait_for(1, "/out")
        revoke(gateway, made)
        upstream.release()
        status, answer = pending.result(30)
    assert (status, answer["result"]) == (200, "paid")


@pytest.mark.parametrize("path", ["/v1/call", "/mcp", "/http/pay/get"])
def test_a_request_that_began_before_the_revocation_is_refused_when_the_rest_of_it_comes(
    gateway: GatewayProcess, path: str
) -> None:
    """Else whoever expects to be revoked sends the heads of many requests, and afterwards the bodies."""
    made = issue(gateway, "a")
    asked = {"jsonrpc": "2.0", "id": 1, "method": "ping"} if path == "/mcp" else {"tool": "pay.get"}
    body = json.dumps(asked).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {made['token']}\r\n"
    head += f"Content-Length: {len(body)}\r\n"
    at = urlsplit(gateway.url)
    with socket.create_connection((at.hostname or "", at.port or 0), 10) as connection:
        connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert b"100 Continue" in connection.recv(4096), "its head was read and accepted"
        revoke(gateway, made)
        connection.sendall(body)
        answer = connection.recv(65_536)
    assert b" 401 " in answer.partition(b"\r\n")[0] and b"was revoked: a test" in answer, answer


def test_revoking_ends_the_wait_before_a_retry(gateway: GatewayProcess, upstream: UpstreamProcess) -> None:
    """No further attempt is made for a credential that is worth nothing any more."""
    made = issue(gateway, "a")
    upstream.clear()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(call, gateway, made["token"], "pay.flaky")
        upstream.wait_for(1, "/flaky")
        revoke(gateway, made)
        status, told = pending.result(30)
    assert (status, told["code"], told["attempts"]) == (401, "unauthenticated", 1)
    assert upstream.count("/flaky") == 1


def test_what_was_acknowledged_survives_sigkill(upstream: UpstreamProcess) -> None:
    """An issued token works after a crash, a revoked one stays revoked, and the ledger verifies."""
    with GatewayProcess(policy(upstream.url)) as gateway:
        kept, gone = issue(gateway, "kept"), issue(gateway, "gone")
        revoke(gateway, gone)
        gateway.kill9()
        gateway.start()
        assert call(gateway, kept["token"])[0] == 200
        assert call(gateway, gone["token"])[0] == 401
        gateway.control("POST", "/v1/kills", {"scope": "agent:ke*", "reason": "wild"})
        gateway.kill9()
        gateway.start()
        lift_all(gateway)
        assert "was revoked by the kill" in call(gateway, kept["token"])[1]["detail"]
        assert gateway.terminate() == 0
        types = [record["type"] for record in query.tail(gateway.data, 100)]
        assert types.count("token.issued") == 2 and types.count("token.revoked") == 1
        assert verify(gateway.data).ok


# ── epochs ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scope", ["agent:wild-one", "agent:wild*"])
def test_a_kill_revokes_what_its_agent_holds_for_ever(gateway: GatewayProcess, scope: str) -> None:
    """Also after it was lifted; others are untouched; what is issued afterwards is good."""
    old, other = issue(gateway, "wild-one")["token"], issue(gateway, "tame")["token"]
    kill = gateway.control("POST", "/v1/kills", {"scope": scope, "reason": "it spends"})[1]
    lift_all(gateway)
    status, told = call(gateway, old)
    assert (status, told["code"]) == (401, "unauthenticated")
    assert f"was revoked by the kill {kill['id']} of {scope.removeprefix('agent:')}: it spends." in told["detail"]
    assert call(gateway, other)[0] == 200
    assert call(gateway, issue(gateway, "wild-one")["token"])[0] == 200


@pytest.mark.parametrize("scope", ["global", "run:r1", "tool:pay.get", "upstream:pay"])
def test_a_kill_that_names_no_agent_revokes_nothing(gateway: GatewayProcess, scope: str) -> None:
    """It says what must not happen now, not whom to distrust."""
    token = issue(gateway, "a")["token"]
    gateway.control("POST", "/v1/kills", {"scope": scope, "reason": "a test"})
    assert call(gateway, token, run="r1")[1]["code"] == "killed"
    lift_all(gateway)
    assert call(gateway, token, run="r1")[0] == 200


# ── the shared token ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_shared_token_can_be_switched_off_and_is_told(upstream: UpstreamProcess) -> None:
    """While it is allowed the log says so at the start and at its first use; a policy ends it for running agents."""
    with GatewayProcess(policy(upstream.url)) as gateway:
        assert "the shared agents' token may be used" in gateway.log
        assert call(gateway, gateway.agent_token, agent="anyone")[0] == 200
        assert call(gateway, gateway.agent_token, agent="anyone")[0] == 200
        assert eventually(lambda: gateway.log.count("the shared agents' token is in use")) == 1
        token = issue(gateway, "a")["token"]
        gateway.write_policy(policy(upstream.url, identity={"sharedToken": "refuse"}))
        told = eventually(lambda: refused(gateway, gateway.agent_token))
        assert "switched off (identity.sharedToken: refuse in the policy)" in told["detail"]
        assert call(gateway, token)[0] == 200


# ── under load ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hundred_tokens_are_rotated_under_load(gateway: GatewayProcess) -> None:
    """Calls flow all the time. Nobody passes with a token whose revocation was acknowledged before the call was made,
    and no call with a valid one is refused."""
    agents = [f"agent-{number}" for number in range(100)]
    current = {agent: issue(gateway, agent) for agent in agents}
    lock, stop = threading.Lock(), threading.Event()
    revoked: list[str] = []
    wrongly_refused: list[Any] = []
    wrongly_passed: list[str] = []
    made = [0, 0]

    def use_valid(offset: int) -> None:
        turn = offset
        while not stop.is_set():
            agent = agents[turn % len(agents)]
            turn += 1
            before = current[agent]
            status, told = call(gateway, before["token"])
            made[0] += 1
            if status != 200 and current[agent] is before:
                wrongly_refused.append(told)

    def use_revoked() -> None:
        turn = 0
        while not stop.is_set():
            with lock:
                known = list(revoked)
            if known:
                token = known[turn % len(known)]
                turn += 1
                made[1] += 1
                if call(gateway, token)[0] != 401:
                    wrongly_passed.append(token)

    users = [threading.Thread(target=use_valid, args=(offset,)) for offset in (0, 50)]
    users.append(threading.Thread(target=use_revoked))
    for user in users:
        user.start()
    try:
        for agent in agents:
            old, current[agent] = current[agent], issue(gateway, agent)
            revoke(gateway, old)
            with lock:
                revoked.append(old["token"])
    finally:
        stop.set()
        for user in users:
            user.join(30)
    assert (wrongly_refused, wrongly_passed) == ([], [])
    assert min(made) > 50, made


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_issues_lists_and_revokes(gateway: GatewayProcess, capsys: pytest.CaptureFixture[str]) -> None:
    """The token alone on stdout, so that it can be written to a file; all else for people on stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--data", str(gateway.data)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    words = ("--owner", "ann", "--label", "team=red", "--expires", "30d", "--tool", "pay.*", "--also", "helper")
    code, out, err = run("tokens", "issue", "cli-agent", *words)
    token = out.strip()
    assert code == 0 and token.startswith("ort_") and "\n" not in token
    assert "This is the only time that it is shown." in err
    assert call(gateway, token)[0] == 200
    code, out, _ = run("tokens", "ls")
    (row,) = [line for line in out.splitlines() if line.startswith(token[4:16])]
    assert "cli-agent, helper" in row and "pay.*" in row and "valid" in row
    assert run("tokens", "revoke", token) == (
        2, "", f"outrider: that is a whole token.\nFix: name its id only: outrider tokens revoke {token[4:16]}\n",
    )  # fmt: skip
    assert run("tokens", "revoke", token[4:16])[:2] == (0, f"Revoked the token {token[4:16]} of agent cli-agent.\n")
    assert call(gateway, token)[0] == 401
    code, out, _ = run("tokens", "ls", "--history", "--json")
    assert {one["id"]: one["state"] for one in json.loads(out)}[token[4:16]] == "revoked"
    assert run("tokens", "revoke", "nosuch")[0] == 1


def test_every_fault_of_a_wish_is_told_at_once(gateway: GatewayProcess) -> None:
    """Which field, what is wrong, what to write."""
    wrong = {
        "agent": "a*", "also": [""], "owner": "x" * 201, "labels": {"": "v"}, "tools": ["plain"], "expires": 30,
        "name": 1,
    }  # fmt: skip
    status, told = gateway.control("POST", "/v1/tokens", wrong)
    assert status == 400
    assert {error["field"] for error in told["errors"]} == set(wrong)
    assert "has a '*'; a token is of agents that are named exactly" in told["detail"]
    assert "30 has no unit; write for example '30d'" in told["detail"]
