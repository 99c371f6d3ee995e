"""The command line against a scripted sidecar: what it sends, what it shows, how it fails."""

from __future__ import annotations

import json
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest

from outrider import clock
from outrider.cli import main, place
from outrider.cli.plain import safe, short
from outrider.cli.reference import render
from outrider.errors import Misconfigured

ROOT = Path(__file__).resolve().parents[2]
KILL = {
    "id": "k1", "scope": "agent:ann", "reason": "it loops", "by": "token:admin (eve)", "durable": True,
    "engaged_at": "2026-11-22T15:00:00.000000Z", "expires_at": None,
}  # fmt: skip


class Sidecar(ThreadingHTTPServer):
    """Answers what it was told to, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, Any, dict[str, str]]] = []


class Answers(BaseHTTPRequestHandler):
    server: Sidecar

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, body, dict(self.headers)))
        path = self.path.partition("?")[0]
        status, answer = self.server.answers.get(f"{self.command} {path}", (404, {"detail": "no", "code": "not_found"}))
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        kind = "text/plain" if isinstance(answer, bytes) else "application/json"
        self.send_header("Content-Type", kind if status < 400 else "application/problem+json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of this machine, no folder that happens to be here; and ``serve`` sets no clock for other tests."""
    monkeypatch.setattr(clock, "monotonic", clock.monotonic)  # what it takes for its process ends with the test
    for name in [name for name in os.environ if name.startswith("OUTRIDER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    """A sidecar whose data folder is ./outrider-data."""
    server = Sidecar()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    address = f"127.0.0.1:{server.server_address[1]}"
    data = tmp_path / "outrider-data"
    data.mkdir()
    (data / "agent.token").write_text("the-agents-token\n")
    (data / "admin.token").write_text("the-admin-token\n")
    listeners = {"listen": address, "control": address, "listen_tls": False, "control_tls": False, "pid": 1}
    (data / "listeners.json").write_text(json.dumps(listeners))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: str) -> tuple[int, str, str]:
        code = main(words)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return command


# ── fast and light ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "barred"),
    [
        (["--help"], {"aiohttp", "pydantic", "msgspec", "yaml", "sqlite_utils", "uvloop", "rich", "asyncio"}),
        (["kill", "--help"], {"aiohttp", "msgspec", "yaml", "sqlite_utils", "uvloop", "rich", "asyncio"}),
        (["probe", "--help"], {"typer", "aiohttp", "pydantic", "msgspec", "asyncio", "rich"}),
        (["run", "--help"], {"typer", "aiohttp", "pydantic", "msgspec", "asyncio", "rich"}),
    ],
)
def test_a_command_imports_only_what_it_needs(words: list[str], barred: set[str]) -> None:
    """People wait for ``--help``; probes start every few seconds; ``run`` runs where only the base install is."""
    program = (
        "import sys\nfrom outrider.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('IMPORTED', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    imported = set(done.stdout.rpartition("IMPORTED")[2].split())
    assert imported & barred == set()


def test_without_the_gateways_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """The base install has no typer."""
    monkeypatch.setitem(sys.modules, "typer", None)
    assert run("kills", "ls") == (
        2,
        "",
        "outrider: this command needs the sidecar's packages, and only the base install of outrider is here.\n"
        "Fix: pip install 'outrider[gateway]'\n",
    )


def test_the_reference_is_what_the_commands_say() -> None:
    """``python -m outrider.cli.reference > docs/cli.md``."""
    assert (ROOT / "docs" / "cli.md").read_text() == render()


def test_every_command_of_the_reference_can_be_asked_for_help(run: Run) -> None:
    """And tells what it does."""
    commands = re.findall(r"^## outrider (.+)$", render(), re.MULTILINE)
    assert len(commands) >= 20
    for command in commands:
        if command not in ("probe", "run"):
            code, out, _ = run(*command.split(), "--help")
            assert code == 0
            assert "Usage: outrider " in out


def test_the_version_is_told(run: Run) -> None:
    assert run("--version")[1].startswith("outrider 0.")


@pytest.mark.parametrize("words", [["kill"], ["nonsense"], ["kill", "global", "--nonsense"], ["settle", "x"]])
def test_wrong_usage_is_exit_code_2(run: Run, words: list[str]) -> None:
    """With the usage on stderr, and nothing on stdout."""
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "Usage: outrider" in err


# ── where the sidecar is ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_data_folder_tells_address_and_token(sidecar: Sidecar, run: Run, tmp_path: Path) -> None:
    """By ``--data``, by OUTRIDER_DATA, or ./outrider-data."""
    sidecar.answers["GET /v1/kills"] = (200, {"kills": []})
    assert run("kills", "ls") == (0, "Nothing is stopped.\n", "")
    assert run("kills", "ls", "--data", str(tmp_path / "outrider-data"))[0] == 0
    assert {headers["Authorization"] for _, _, _, headers in sidecar.asked} == {"Bearer the-admin-token"}


def test_the_environment_tells_address_and_token(
    sidecar: Sidecar, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any folder; ``--data`` wins over it."""
    sidecar.answers["GET /v1/kills"] = (200, {"kills": []})
    url = f"http://127.0.0.1:{sidecar.server_address[1]}"
    data = (tmp_path / "outrider-data").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("OUTRIDER_CONTROL_URL", url + "/")
    monkeypatch.setenv("OUTRIDER_ADMIN_TOKEN", "from-the-environment")
    assert run("kills", "ls")[0] == 0
    assert sidecar.asked[-1][3]["Authorization"] == "Bearer from-the-environment"
    monkeypatch.setenv("OUTRIDER_CONTROL_URL", "http://127.0.0.1:1")
    assert run("kills", "ls", "--data", str(data))[0] == 0
    assert sidecar.asked[-1][3]["Authorization"] == "Bearer the-admin-token"
    monkeypatch.setenv("OUTRIDER_CONTROL_URL", url)
    monkeypatch.delenv("OUTRIDER_ADMIN_TOKEN")
    monkeypatch.setenv("OUTRIDER_ADMIN_TOKEN_FILE", str(data / "agent.token"))
    assert run("kills", "ls")[0] == 0
    assert sidecar.asked[-1][3]["Authorization"] == "Bearer the-agents-token"


@pytest.mark.parametrize(
    ("listening", "asked"),
    [("0.0.0.0:7071", "http://127.0.0.1:7071"), ("[::]:7071", "http://[::1]:7071"), ("[::1]:1", "http://[::1]:1")],
)
def test_a_listener_on_every_address_is_asked_on_the_loopback(tmp_path: Path, listening: str, asked: str) -> None:
    """0.0.0.0 is nowhere to connect to."""
    (tmp_path / "listeners.json").write_text(json.dumps({"control": listening, "control_tls": False}))
    assert place.listener_url(tmp_path, "control", "X") == asked


@pytest.mark.parametrize(
    ("setup", "told"),
    [
        (
            "",
            "outrider: there is no data folder outrider-data.\n"
            "Fix: name the folder of `outrider serve --data` with --data, or set OUTRIDER_CONTROL_URL.\n",
        ),
        (
            "mkdir outrider-data",
            "outrider: no sidecar runs on the data folder outrider-data (listeners.json is not there).\n"
            "Fix: start one: outrider serve --policy DIR --data outrider-data\n",
        ),
        (
            "mkdir outrider-data; echo [] > outrider-data/listeners.json",
            "outrider: outrider-data/listeners.json is not what a sidecar writes.\n"
            "Fix: set OUTRIDER_CONTROL_URL, or restart the sidecar.\n",
        ),
        (
            'mkdir outrider-data; echo \'{"control": "127.0.0.1:1"}\' > outrider-data/listeners.json',
            "outrider: the token file outrider-data/admin.token cannot be read: No such file or directory.\n"
            "Fix: run this as the user of the sidecar, or set OUTRIDER_ADMIN_TOKEN.\n",
        ),
        (
            'mkdir outrider-data; echo \'{"control": "127.0.0.1:1"}\' > outrider-data/listeners.json; '
            "echo token > outrider-data/admin.token",
            "outrider: no sidecar answers at http://127.0.0.1:1 (told by outrider-data/listeners.json): "
            "Connection refused.\n"
            "Fix: start the sidecar. To stop every call without it: touch outrider-data/KILL\n",
        ),
    ],
)
def test_a_sidecar_that_is_not_found_is_explained(run: Run, setup: str, told: str) -> None:
    """Golden texts: what, where, how to mend."""
    subprocess.run(["sh", "-c", setup], check=True)
    assert run("kill", "global") == (1, "", told)


def test_an_address_without_a_token_is_explained(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is one that is none."""
    monkeypatch.setenv("OUTRIDER_CONTROL_URL", "http://127.0.0.1:1")
    assert run("kills", "ls")[2] == (
        "outrider: there is no token to ask with: OUTRIDER_ADMIN_TOKEN is not set.\n"
        "Fix: set OUTRIDER_ADMIN_TOKEN or OUTRIDER_ADMIN_TOKEN_FILE.\n"
    )
    monkeypatch.setenv("OUTRIDER_ADMIN_TOKEN", "x")
    for address in ("127.0.0.1:7071", "ftp://x", "http://:1", "http://x:port"):
        monkeypatch.setenv("OUTRIDER_CONTROL_URL", address)
        code, _, err = run("kills", "ls")
        assert code in (1, 2)
        assert f"'{address}' is not the address of a sidecar" in err


def test_a_refusal_is_told_with_its_code_and_faults(sidecar: Sidecar, run: Run) -> None:
    """The sidecar's sentence; for a wrong token what to do about it."""
    sidecar.answers["GET /v1/kills"] = (401, {"detail": "This is not the admin token.", "code": "unauthenticated"})
    assert run("kills", "ls") == (
        1,
        "",
        "outrider: This is not the admin token. (unauthenticated)\n"
        "Fix: use the token of this sidecar: --data DIR, or the environment.\n",
    )
    sidecar.answers["GET /v1/agents"] = (502, b"<html>")
    assert run("agents", "ls")[2].startswith("outrider: the sidecar answered 502.")


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────


def receipt(**more: Any) -> dict[str, Any]:
    call = {"call_id": "c1", "agent": "ann", "tool": "pay.out", "result": "unknown"}
    counts = {"not_executed": 2, "completed": 0, "unknown": 1}
    return {
        "id": "k1", "scope": "agent:ann", "took_ms": 41.7, "counts": counts, "calls": [call], "durable": True,
    } | more  # fmt: skip


def test_a_kill_needs_nothing_but_its_scope_and_shows_the_receipt(sidecar: Sidecar, run: Run) -> None:
    """In an emergency nobody wants to be asked for a reason."""
    sidecar.answers["POST /v1/kills"] = (201, receipt())
    code, out, err = run("kill", "agent:ann")
    assert (code, err) == (0, "")
    assert out == (
        "Stopped agent:ann in 42 ms. Calls under way: 2 not executed, 0 completed, 1 unknown.\n"
        "CALL  AGENT  TOOL     RESULT\n"
        "c1    ann    pay.out  unknown\n"
        "Tokens and JWTs issued to it until now are revoked, and stay so once the kill is lifted.\n"
        "Lift it with: outrider revive k1 --reason …\n"
    )
    _, _, body, headers = sidecar.asked[-1]
    assert body == {"scope": "agent:ann", "reason": "stopped from the command line"}
    assert headers["Outrider-Actor"]
    run("kill", "global", "--reason", "fire", "--ttl", "15m")
    assert sidecar.asked[-1][2] == {"scope": "global", "reason": "fire", "ttl": "15m"}


def test_a_kill_that_is_not_on_disk_yet_says_so(sidecar: Sidecar, run: Run) -> None:
    """On stderr, so that ``--json`` stays JSON."""
    sidecar.answers["POST /v1/kills"] = (201, receipt(durable=False))
    code, out, err = run("kill", "agent:ann", "--json")
    assert (code, json.loads(out)) == (0, receipt(durable=False))
    assert err.startswith("Warning: the kill is in force and not yet on disk")


def test_kills_are_listed(sidecar: Sidecar, run: Run) -> None:
    """As a table that a pipe can read, or as JSON."""
    lifted = KILL | {"id": "k0", "lifted_at": "2026-11-22T16:00:00Z", "lifted_by": "x", "lift_reason": "y"}
    sidecar.answers["GET /v1/kills"] = (200, {"kills": [KILL], "lifted": [lifted]})
    lines = run("kills", "ls")[1].splitlines()
    assert lines[0].split() == ["ID", "SCOPE", "REASON", "BY", "ENGAGED", "UNTIL", "ON", "DISK"]
    assert "it is lifted" in lines[1]
    assert json.loads(run("kills", "ls", "--json")[1]) == [KILL]
    assert "lifted 2026-11-22T16:00:00Z" in run("kills", "ls", "--history")[1]
    assert sidecar.asked[-1][1] == "/v1/kills?history=true"


def test_a_kill_is_lifted_by_its_id_or_its_scope(sidecar: Sidecar, run: Run) -> None:
    """A scope that is engaged once is as good as an id."""
    sidecar.answers["GET /v1/kills"] = (200, {"kills": [KILL, KILL | {"id": "k2", "scope": "global"}] * 1})
    sidecar.answers["DELETE /v1/kills/k1"] = (200, {"id": "k1", "scope": "agent:ann", "lifted": True})
    assert run("revive", "k1", "--reason", "mended")[1] == "Lifted agent:ann (k1).\n"
    assert run("revive", "agent:ann", "--reason", "mended")[0] == 0
    assert sidecar.asked[-1][:3] == ("DELETE", "/v1/kills/k1", {"reason": "mended"})
    assert run("revive", "agent:bob", "--reason", "x")[2].startswith("outrider: no kill of agent:bob is engaged.")
    assert run("revive", "k1")[0] == 2


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_call_prints_its_result(sidecar: Sidecar, run: Run) -> None:
    """JSON as JSON, text as text; ``--json`` the whole answer."""
    answer = {"call_id": "c1", "outcome": "ok", "result": {"balance": 1}, "attempts": 1, "degraded": False}
    sidecar.answers["POST /v1/call"] = (200, answer)
    words = ("call", "pay.get_x", "--args", '{"id": "42"}', "--agent", "ann", "--run", "r", "--timeout-ms", "500")
    code, out, _ = run(*words)
    assert (code, json.loads(out)) == (0, {"balance": 1})
    _, _, body, headers = sidecar.asked[-1]
    assert body == {"tool": "pay.get_x", "args": {"id": "42"}, "agent": "ann", "run": "r"}
    assert (headers["Authorization"], headers["Gateway-Timeout-Ms"]) == ("Bearer the-agents-token", "500")
    assert json.loads(run("call", "pay.get_x", "--json")[1]) == answer
    sidecar.answers["POST /v1/call"] = (200, answer | {"result": "fine\x1b[2J"})
    assert run("call", "pay.get_x")[1] == "fine\\x1b[2J\n"


def test_a_call_that_did_not_succeed_says_whether_it_may_have_run(sidecar: Sidecar, run: Run) -> None:
    """Exit code 1, the sentence, the outcome and where to read more."""
    problem = {"detail": "The upstream reset.", "code": "outcome_unknown", "outcome": "unknown", "attempts": 1}
    sidecar.answers["POST /v1/call"] = (502, problem | {"call_id": "c1"})
    assert run("call", "pay.out") == (
        1,
        "",
        "outrider: The upstream reset. (outcome_unknown)\n"
        "  outcome unknown, attempts 1; see: outrider ledger show c1\n",
    )
    code, out, err = run("call", "pay.out", "--json")
    assert (code, json.loads(out)["code"], err) == (1, "outcome_unknown", "")


@pytest.mark.parametrize("args", ["{", "[1]", "null", "[" * 100_000])
def test_arguments_that_are_no_json_object_are_wrong_usage(run: Run, args: str) -> None:
    """Before anything is asked."""
    code, _, err = run("call", "x.y", "--args", args)
    assert code == 2
    assert err.startswith("outrider: --args is not ")
    assert "for example: --args" in err


def test_a_call_goes_over_a_unix_socket_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``OUTRIDER_URL=unix:/path``, as the adapters write it."""

    class UnixSidecar(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

        def __init__(self, path: str) -> None:
            super().__init__(path, UnixAnswers)
            self.answers = {"POST /v1/call": (200, {"result": "through the socket"})}
            self.asked: list[Any] = []

    class UnixAnswers(Answers):
        def address_string(self) -> str:
            return "unix"

    path = tmp_path / "s"
    with UnixSidecar(str(path)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("OUTRIDER_URL", f"unix:{path}")
        monkeypatch.setenv("OUTRIDER_TOKEN", "x")
        assert run("call", "x.y") == (0, "through the socket\n", "")
        server.shutdown()


def test_an_unknown_outcome_is_settled(sidecar: Sidecar, run: Run) -> None:
    """With one of two words and a reason."""
    sidecar.answers["POST /v1/calls/c%2F1/settle"] = (200, {"call_id": "c/1", "settled": "not_executed"})
    assert run("settle", "c/1", "--as", "not_executed", "--reason", "x")[1] == "Settled: c/1 was not executed.\n"
    assert sidecar.asked[-1][2] == {"as": "not_executed", "reason": "x"}
    assert run("settle", "c1", "--as", "done", "--reason", "x")[0] == 2


def test_a_calls_values_are_erased_by_a_running_sidecar(sidecar: Sidecar, run: Run) -> None:
    """Only with a reason, and with what was not erased by it told."""
    erased = {"call_id": "c/1", "seq": 7, "reason": "x", "by": "token:admin"}
    sidecar.answers["POST /v1/ledger/c%2F1/erase"] = (200, erased)
    code, told, _ = run("ledger", "erase", "c/1", "--reason", "x")
    assert (code, told.splitlines()[0]) == (0, "Erased: the arguments and results of c/1 (record 7).")
    assert "copies, backups and exports" in told
    assert sidecar.asked[-1][2] == {"reason": "x"}
    assert json.loads(run("ledger", "erase", "c/1", "--reason", "x", "--json")[1]) == erased
    assert run("ledger", "erase", "c/1")[0] == 2
    assert run("ledger", "erase", "gone", "--reason", "x")[0] == 1


def test_agents_calls_and_upstreams_are_listed(sidecar: Sidecar, run: Run) -> None:
    """One line each; the domains of local one line each too."""
    sidecar.answers["GET /v1/agents"] = (
        200,
        {"agents": [{
            "name": "ann", "standing": "paused", "framework": "langgraph", "tools": ["a", "b"], "in_flight": 1,
            "instances": [{"state": "connected"}, {"state": "lost"}], "calls": 7, "failures": 2, "refused": 1,
            "last_seen": "2026-11-22T15:00:00Z", "owner": "", "declared": False, "quarantined": False, "waiting": 3,
            "drift": ["b"], "commanded": {"state": "paused", "automated": True},
        }]},
    )  # fmt: skip
    agents = run("agents", "ls")[1].splitlines()
    assert re.split(r"\s{2,}", agents[1]) == [
        "ann", "paused", "undeclared, 1 drifted, 3 waiting, by Outrider", "-", "langgraph", "1", "2", "1", "7", "2",
        "1", "2026-11-22T15:00:00Z",
    ]  # fmt: skip
    domain = {
        "key": "pay",
        "breaker": {"state": "open", "failures": 5, "calls": 9},
        "bulkhead": {"held": 1, "waiting": 3},
    }
    shown = {"name": "pay", "probed": True, "health": {"ready": False, "last": "refused"}, "domains": [domain]}
    unused = {"name": "local", "probed": False, "health": {"ready": True}, "domains": []}
    sidecar.answers["GET /v1/upstreams"] = (200, {"upstreams": [shown, unused]})
    lines = run("upstreams", "ls")[1].splitlines()
    assert re.split(r"\s{2,}", lines[1]) == ["pay", "not ready", "open", "5 of 9", "1", "3", "refused"]
    assert re.split(r"\s{2,}", lines[2]) == ["local", "-", "closed", "0", "0", "0", "-"]
    sidecar.answers["GET /v1/calls"] = (200, {"calls": []})
    assert run("calls", "ls")[1] == "No call is under way.\n"


# ── hostile text ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ann", "ann"),
        ("Łódź 𝄞", "Łódź 𝄞"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\x9b31m", "\\x9b31m"),  # the one-byte form of ESC [
        ("a\u202eb", "a\\u202eb"),  # right to left: pretends to be another name
        ("a\u200bb", "a\\u200bb"),
        ("a\u2028b", "a\\u2028b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_text_from_agents_cannot_act_on_a_terminal(text: str, shown: str) -> None:
    """Written out instead."""
    assert safe(text) == shown


def test_a_table_keeps_its_rows_whatever_an_agent_calls_itself(sidecar: Sidecar, run: Run) -> None:
    """One kill is one line; JSON is ASCII."""
    hostile = KILL | {"reason": "x\n\x1b[1A\x1b[2Kglobal  all is well [bold]"}
    sidecar.answers["GET /v1/kills"] = (200, {"kills": [hostile]})
    out = run("kills", "ls")[1]
    assert len(out.splitlines()) == 2
    assert "\x1b" not in out
    assert "[bold]" in out
    assert run("kills", "ls", "--json")[1].isascii()


def test_a_long_text_is_cut_where_it_must_be() -> None:
    """With a mark."""
    assert short("x" * 100, 10) == "xxxxxxxxx…"


def test_on_a_terminal_tables_are_rich_and_markup_of_agents_is_not_obeyed(
    sidecar: Sidecar, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Square brackets are text."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    sidecar.answers["GET /v1/kills"] = (200, {"kills": [KILL | {"reason": "[red]x[/red]\x1b[2J"}]})
    out = run("kills", "ls")[1]
    assert "[red]x[/red]\\x1b[2J" in out


# ── serve, init, check, probe, run ───────────────────────────────────────────────────────────────────────────────


def test_init_writes_a_policy_that_check_finds_good(run: Run, tmp_path: Path) -> None:
    """And overwrites nothing unasked."""
    code, out, _ = run("init")
    assert (code, out) == (
        0,
        "Wrote policy/policy.yaml. Next: outrider check --policy policy, then outrider serve --policy policy\n",
    )
    assert run("check")[:2] == (0, "0 error(s), 0 warning(s). Policy 'default' is good.\n")
    assert json.loads(run("check", "--json")[1])["ok"] is True
    assert run("init")[2] == (
        "outrider: policy/policy.yaml is there already.\n"
        "Fix: use --force to replace it, or name another folder.\n"
    )  # fmt: skip
    assert run("init", "--force")[0] == 0
    (tmp_path / "policy" / "policy.yaml").rename(tmp_path / "policy" / "mine.yml")
    assert run("init")[2].startswith("outrider: policy already holds a policy: mine.yml.")


def test_check_tells_every_fault_with_its_place(run: Run, tmp_path: Path) -> None:
    """Exit code 1; the same as JSON."""
    run("init")
    file = tmp_path / "policy" / "policy.yaml"
    file.write_text(file.read_text().replace("effect: write ", "efect: write ").replace("total: 2m", "total: 2"))
    code, out, err = run("check")
    assert (code, err) == (1, "")
    assert len(re.findall(r"^error: policy.yaml:\d+ ", out, re.MULTILINE)) == 2
    assert "2 error(s)" in out
    report = json.loads(run("check", "--json")[1])
    assert report["ok"] is False
    assert {fault["severity"] for fault in report["faults"]} == {"error"}


def test_the_schema_is_json(run: Run) -> None:
    """For editors."""
    assert "properties" in json.loads(run("policy", "schema")[1])


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--listen", "7070"], 2, "outrider: --listen '7070' is not HOST:PORT. Write for example 127.0.0.1:7070.\n"),
        (["--control", "x:99999"], 2, "outrider: --control 'x:99999' is not HOST:PORT. Write for example"),
        (["--drain-timeout", "-1"], 2, "Usage: outrider serve"),
        ([], 1, "outrider: policy: there is no such folder. Fix: write a policy there with 'outrider init'"),
    ],
)
def test_serve_refuses_what_it_cannot_start_with(run: Run, words: list[str], code: int, told: str) -> None:
    """What is wrong, and how to mend it, before anything listens."""
    answered, out, err = run("serve", *words)
    assert (answered, out) == (code, "")
    assert err.startswith(told)


def test_a_probe_answers_with_its_exit_code(
    sidecar: Sidecar, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 ready or alive, 1 not, with the reason on stderr."""
    url = f"http://127.0.0.1:{sidecar.server_address[1]}"
    sidecar.answers["GET /readyz"] = (200, b"ok\n")
    assert run("probe", "--ready", "--url", url) == (0, "ok\n", "")
    assert run("probe", "--data", str(tmp_path / "outrider-data")) == (0, "ok\n", "")
    monkeypatch.setenv("OUTRIDER_URL", url)
    assert run("probe") == (0, "ok\n", "")
    sidecar.answers["GET /readyz"] = (503, b"not ready: shutting down\n")
    assert run("probe") == (1, "", "not ready: shutting down\n")
    sidecar.answers["GET /livez"] = (200, b"ok\n")
    assert run("probe", "--live")[0] == 0
    assert run("probe", "--url", "http://127.0.0.1:1") == (
        1, "", "outrider: no answer from http://127.0.0.1:1/readyz: Connection refused\n",
    )  # fmt: skip
    assert "Authorization" not in sidecar.asked[-1][3]


def test_run_hands_the_program_where_its_sidecar_is(
    sidecar: Sidecar, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Address and token file by the environment, then the adapters take over."""
    asked: list[tuple[Any, ...]] = []

    class Adapters:
        @staticmethod
        def run(command: list[str], agent: str) -> NoReturn:
            asked.append((agent, command, os.environ["OUTRIDER_URL"], os.environ["OUTRIDER_TOKEN_FILE"]))
            raise Misconfigured("'python' is not a program on PATH.")

    monkeypatch.setitem(sys.modules, "outrider_adapters.run", Adapters)  # type: ignore[arg-type]
    monkeypatch.setenv("OUTRIDER_URL", "")
    monkeypatch.setenv("OUTRIDER_TOKEN_FILE", "")
    data = tmp_path / "outrider-data"
    code, _, err = run("run", "--agent", "ann", "--data", str(data), "--", "python", "agent.py", "--json")
    assert (code, err) == (1, "outrider: 'python' is not a program on PATH.\n")
    address = f"http://127.0.0.1:{sidecar.server_address[1]}"
    assert asked == [("ann", ["python", "agent.py", "--json"], address, str(data / "agent.token"))]
    assert run("run", "--agent", "x", "--")[0] == 2


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The agents whose program `outrider run` went on to start; none is started really."""
    agents: list[str] = []

    class Adapters:
        @staticmethod
        def run(command: list[str], agent: str) -> NoReturn:
            agents.append(agent)
            raise Misconfigured("stopped here")

    monkeypatch.setenv("OUTRIDER_URL", "")  # the command sets them for its program; they end with the test
    monkeypatch.setenv("OUTRIDER_TOKEN_FILE", "")
    monkeypatch.setitem(sys.modules, "outrider_adapters.run", Adapters)  # type: ignore[arg-type]
    return agents


def test_run_says_when_no_sidecar_listens_and_starts_the_program_all_the_same(
    run: Run, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sidecar may come later; until then every tool call is refused, and it is said what to start."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        monkeypatch.setenv("OUTRIDER_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("OUTRIDER_TOKEN", "x")
        err = run("run", "--agent", "ann", "--", "python", "agent.py")[2].splitlines()
    assert started == ["ann"]
    assert err[0] == (
        f"outrider: warning: no sidecar listens at {os.environ['OUTRIDER_URL']} (Connection refused). "
        "Until one does, every governed tool call is refused."
    )
    assert err[1] == "Fix: start one: outrider serve --policy DIR --data DIR"


def test_run_is_silent_about_a_sidecar_that_listens(sidecar: Sidecar, run: Run, started: list[str]) -> None:
    """Only the adapters' own words."""
    assert run("run", "--agent", "ann", "--", "python", "agent.py")[2] == "outrider: stopped here\n"


def test_run_without_any_sidecar_says_how_to_start_one(run: Run, started: list[str]) -> None:
    """A newcomer's first try: no data folder, no environment."""
    code, _, err = run("run", "--agent", "ann", "--", "python", "agent.py")
    assert (code, started) == (1, [])
    assert err.splitlines()[0] == (
        "outrider: no sidecar is known: there is no outrider-data/listeners.json, and OUTRIDER_URL and OUTRIDER_TOKEN "
        "are not set."
    )
    assert "outrider serve --policy DIR --data outrider-data" in err
