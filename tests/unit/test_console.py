"""The page's routes, asked over real sockets: who may, what the cookie opens, and the stream of events."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider import clock
from outrider.calls import Call
from outrider.console.board import TAIL, Board, changes
from outrider.console.fleet import Merger, Sheet, added, sheet
from outrider.console.live import MAX_READERS, TROUBLE, Live, TooMany
from outrider.console.rows import KILL, MAX_AGENTS, MAX_TEXT, SHAPES, agents, events, text, upstreams
from outrider.console.sessions import FAILURES, IDLE_S, LASTS_S, MAX_SESSIONS, Sessions
from outrider.control.console import DESK, HEADER, SAFE
from outrider.errors import Misconfigured
from outrider.ledger.record import Event, EventType
from outrider.pulse import WORDS
from outrider.settings import Address, Settings, Tls
from outrider.sidecar import Sidecar
from tests.support.certificates import certificate

POLICY = """
apiVersion: outrider.dev/v1alpha1
kind: Policy
metadata: {name: looked-at}
rules:
  - {name: none, tools: ["*"], then: deny, reason: nothing is allowed here}
"""
Message = tuple[str, dict[str, Any]]
SCALAR = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)
WORD = st.sampled_from(
    ["tables", "agents", "kills", "name", "id", "pulse", "second", "head", "counts", "rank", "words"]
)
JSON = st.recursive(
    SCALAR, lambda one: st.lists(one, max_size=5) | st.dictionaries(WORD, one, max_size=5), max_leaves=30
)


class Browser:
    """Keeps a cookie, and asks as a page of this listener would."""

    def __init__(self, sidecar: Sidecar, session: aiohttp.ClientSession) -> None:
        self.sidecar, self.session = sidecar, session
        self.base = f"http://{sidecar.control}"
        self.admin = sidecar.services.settings.admin_token_file.read_text().strip()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        headers = {"Sec-Fetch-Site": "same-origin", HEADER: "1", **headers}
        headers = {name: value for name, value in headers.items() if value}
        async with self.session.request(method, self.base + path, json=body, headers=headers) as response:
            read = await response.text()
            return response.status, json.loads(read) if "json" in response.content_type else read

    async def sign_in(self, name: str = "eve") -> None:
        assert await self.ask("POST", "/v1/console/session", {"token": self.admin, "name": name}) == (
            201,
            {"signed_in": True},
        )

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Message]]:
        headers = {"Sec-Fetch-Site": "same-origin"}
        async with self.session.get(self.base + "/v1/events", headers=headers) as response:
            assert response.status == 200, await response.text()
            yield _messages(response)


async def _messages(response: aiohttp.ClientResponse) -> AsyncIterator[Message]:
    kind = ""
    async for line in response.content:
        if line.startswith(b"event: "):
            kind = line[7:].decode().strip()
        elif line.startswith(b"data: "):
            yield kind, json.loads(line[6:])


async def next_where(messages: AsyncIterator[Message], true: Any) -> Message:
    """The first message that is so; a generous limit."""
    async with asyncio.timeout(20):
        async for message in messages:
            if true(message):
                return message
    raise AssertionError("the stream ended before")


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "p.yaml").write_text(POLICY)
    anywhere = Address("127.0.0.1", 0)
    settings = Settings(tmp_path / "policy", tmp_path / "data", anywhere, anywhere, drain_timeout_s=0.0)
    sidecar = await Sidecar.start(settings)
    try:
        jar = aiohttp.CookieJar(unsafe=True)  # of an address, too
        async with aiohttp.ClientSession(cookie_jar=jar, read_bufsize=2**22) as session:
            yield Browser(sidecar, session)
    finally:
        await sidecar.stop()


# ── the page and its files ───────────────────────────────────────────────────────────────────────────────────────────


async def test_the_page_is_open_and_locked_down(browser: Browser) -> None:
    """Nothing of anybody else's may run in it, whatever a file is."""
    for path in ("/", "/console/app.js", "/console/page.css", "/console/mark.svg"):
        async with browser.session.get(browser.base + path) as response:
            assert response.status == 200, path
            assert {name: response.headers[name] for name in SAFE} == SAFE
            tag = response.headers["ETag"]
        async with browser.session.get(browser.base + path, headers={"If-None-Match": tag}) as response:
            assert (response.status, await response.read()) == (304, b"")
    policy = SAFE["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", ["nothing.js", "..%2f__init__.py", "%2e%2e%2fsessions.py", "%00"])
async def test_only_the_pages_files_are_served(browser: Browser, name: str) -> None:
    """They are known by name; there is no path to walk."""
    assert (await browser.ask("GET", f"/console/{name}"))[0] == 404


async def test_a_link_to_the_page_may_be_followed_from_anywhere(browser: Browser) -> None:
    """But it is all that another site may ask for, and not in its frame."""
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await browser.ask("GET", "/", **link))[0] == 200
    assert (await browser.ask("GET", "/", **(link | {"Sec-Fetch-Dest": "iframe"})))[0] == 403
    assert (await browser.ask("GET", "/v1/console/session", **link))[0] == 403
    assert (await browser.ask("GET", "/", **link, Host="evil.example:7071"))[0] == 403


# ── signing in ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_admin_token_signs_in_and_no_other(browser: Browser) -> None:
    """The cookie cannot be read by a script and goes to no other site; the answer holds no secret."""
    agent = browser.sidecar.services.settings.agent_token_file.read_text().strip()
    for wrong in ("", "x", agent):
        status, body = await browser.ask("POST", "/v1/console/session", {"token": wrong})
        assert (status, body["code"]) == (401, "unauthenticated")
    assert (await browser.ask("GET", "/v1/console/session"))[1] == {"signed_in": False, "name": ""}
    url, body = browser.base + "/v1/console/session", {"token": browser.admin + "\n", "name": "eve"}
    async with browser.session.post(url, json=body) as response:
        cookie = response.headers["Set-Cookie"]
        assert (response.status, await response.json()) == (201, {"signed_in": True})
    assert cookie.startswith(f"outrider_session_{browser.sidecar.control.port}=")
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= set(cookie.split("; "))
    assert "Secure" not in cookie  # over plain HTTP it would never come back
    assert (await browser.ask("GET", "/v1/console/session"))[1] == {"signed_in": True, "name": "eve"}


async def test_over_tls_the_cookie_goes_nowhere_else(tmp_path: Path) -> None:
    """``Secure``: never in the clear."""
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "p.yaml").write_text(POLICY)
    made, anywhere = certificate(tmp_path, "control"), Address("127.0.0.1", 0)
    tls = Tls(str(made.cert), str(made.key))
    sidecar = await Sidecar.start(Settings(tmp_path / "policy", tmp_path / "data", anywhere, anywhere, control_tls=tls))
    try:
        token = (tmp_path / "data" / "admin.token").read_text().strip()
        url, context = f"https://{sidecar.control}/v1/console/session", ssl.create_default_context(cafile=str(made.ca))
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json={"token": token}, ssl=context) as response,
        ):
            assert response.status == 201
            assert "Secure" in response.headers["Set-Cookie"].split("; ")
    finally:
        await sidecar.stop()


async def test_a_body_with_faults_is_told_all_of_them(browser: Browser) -> None:
    """As every other body."""
    status, body = await browser.ask("POST", "/v1/console/session", {"tokn": "x"})
    assert status == 400
    assert {fault["field"] for fault in body["errors"]} == {"tokn", "token"}


async def test_wrong_tokens_are_looked_at_so_many_times(browser: Browser) -> None:
    """Then not even the right one is, until a little later."""
    for _ in range(FAILURES.burst):
        assert (await browser.ask("POST", "/v1/console/session", {"token": "wrong"}))[0] == 401
    status, body = await browser.ask("POST", "/v1/console/session", {"token": browser.admin})
    assert (status, body["code"]) == (429, "rate_limited")
    assert 0 < body["retry_after_ms"] <= 1000 / FAILURES.rate_per_s


async def test_the_cookie_opens_what_the_page_needs_and_nothing_else(browser: Browser) -> None:
    """Reading goes over the stream; the rest of the control plane wants the token."""
    await browser.sign_in()
    for method, path in (
        ("GET", "/v1/agents"), ("GET", "/v1/ledger"), ("GET", "/v1/policy"), ("GET", "/metrics"),
        ("POST", "/v1/policy/reload"), ("DELETE", "/v1/kills/x"), ("POST", "/v1/calls/x/settle"),
    ):  # fmt: skip
        status, body = await browser.ask(method, path, {"reason": "x"} if method != "GET" else None)
        assert (status, body["code"]) == (401, "unauthenticated"), path
    status, receipt = await browser.ask("POST", "/v1/kills", {"scope": "agent:ann", "reason": "it loops"})
    assert status == 201
    (kill,) = browser.sidecar.services.kills.all()
    assert (kill.id, kill.by) == (receipt["id"], "console (eve)")


async def test_a_kill_by_the_cookie_needs_the_pages_own_header(browser: Browser) -> None:
    """A form of another page of this host can send the cookie, but no header."""
    await browser.sign_in()
    kill = {"scope": "global", "reason": "x"}
    assert (await browser.ask("POST", "/v1/kills", kill, **{HEADER: ""}))[0] == 401
    assert (await browser.ask("POST", "/v1/kills", kill, **{"Sec-Fetch-Site": "same-site"}))[0] == 403
    assert (await browser.ask("POST", "/v1/kills", kill, Origin="http://127.0.0.1:1"))[0] == 403
    assert (await browser.ask("DELETE", "/v1/console/session", **{HEADER: ""}))[0] == 401
    assert browser.sidecar.services.kills.all() == ()


async def test_a_wrong_token_is_not_made_good_by_a_cookie(browser: Browser) -> None:
    """Who sends a token is judged by it."""
    await browser.sign_in()
    assert (await browser.ask("GET", "/v1/events", Authorization="Bearer wrong"))[0] == 401


async def test_signing_out_ends_the_session_and_its_stream(browser: Browser) -> None:
    """The open page is told why."""
    await browser.sign_in()
    async with browser.events() as messages:
        assert (await anext(messages))[0] == "board"
        assert (await browser.ask("DELETE", "/v1/console/session"))[0] == 200
        assert await next_where(messages, lambda message: message[0] == "end") == ("end", {"reason": "signed_out"})
    assert (await browser.ask("GET", "/v1/events"))[0] == 401


async def test_a_name_that_would_break_the_record_is_none(browser: Browser) -> None:
    """Control characters are not recorded as who acts."""
    await browser.sign_in("ev\u202ee")
    await browser.ask("POST", "/v1/kills", {"scope": "agent:x", "reason": "x"})
    assert [kill.by for kill in browser.sidecar.services.kills.all()] == ["console"]


# ── sessions, by themselves ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_ends_when_it_is_idle_and_in_any_case() -> None:
    """Using it puts off the first, and nothing puts off the second."""
    sessions = Sessions()
    idle, used = sessions.open("", 0.0), sessions.open("", 0.0)
    now = 0.0
    while now + IDLE_S / 2 < LASTS_S:
        now += IDLE_S / 2
        assert sessions.find(used, now) is not None
    assert sessions.find(idle, now) is None
    assert sessions.find(used, LASTS_S) is None


def test_sessions_are_bounded_and_kept_as_hashes() -> None:
    """The one unused for longest makes room; no secret lies in memory."""
    sessions = Sessions()
    secrets = [sessions.open("", float(n)) for n in range(MAX_SESSIONS + 1)]
    assert sessions.find(secrets[0], 100.0) is None
    assert all(sessions.find(secret, 100.0) for secret in secrets[1:])
    assert not {secret.encode() for secret in secrets} & set(sessions._open)


# ── the stream ───────────────────────────────────────────────────────────────────────────────────────────────────────


def call(browser: Browser, agent: str, tool: str = "x.y") -> Any:
    flight = browser.sidecar.services.supervisor.submit(Call(clock.new_id(), tool, {}, agent=_agent(agent)))
    return flight.answer


def _agent(name: str) -> Any:
    from outrider.calls import Agent

    return Agent(name)


async def test_the_stream_begins_with_everything_and_goes_on_with_what_changed(browser: Browser) -> None:
    """Agents, ends of calls, kills and the ledger's records, each within a second or so."""
    await browser.sign_in()
    await call(browser, "ann")
    async with browser.events() as messages:
        kind, board = await anext(messages)
        assert kind == "board"
        assert set(board["tables"]) == {"agents", "calls", "upstreams", "kills", "events"}
        assert board["tables"]["agents"]["/ann"]["refused"] == 1
        assert board["words"] == list(WORDS)
        assert board["head"]["policy"]["name"] == "looked-at"
        await call(browser, "bob")
        _, change = await next_where(messages, lambda message: "agents" in message[1]["tables"])
        assert change["tables"]["agents"] == {"set": {"/bob": change["tables"]["agents"]["set"]["/bob"]}, "gone": []}
        numbers = {board["number"], change["number"]}
        assert len(numbers) == 2
        await browser.ask("POST", "/v1/kills", {"scope": "agent:bob", "reason": "it loops"})
        told: dict[str, list[Any]] = {"kills": [], "events": []}
        async with asyncio.timeout(20):
            while not told["kills"] or "kill.engaged" not in {row["type"] for row in told["events"]}:
                _, change = await anext(messages)
                for name, rows in told.items():
                    rows += change["tables"].get(name, {"set": {}})["set"].values()
        assert [(kill["scope"], kill["by"]) for kill in told["kills"]] == [("agent:bob", "console (eve)")]


async def test_every_call_is_counted_once_however_a_page_reads(browser: Browser) -> None:
    """The history and the changes after it add up."""
    await browser.sign_in()
    for n in range(7):
        await call(browser, f"a{n}")
    async with browser.events() as messages, asyncio.timeout(20):
        counted: dict[int, int] = {}
        for _ in range(5):
            await call(browser, "later")
            take(counted, (await anext(messages))[1])
        while sum(counted.values()) < 12:
            take(counted, (await anext(messages))[1])
        take(counted, (await anext(messages))[1])
        assert sum(counted.values()) == 12


def take(counted: dict[int, int], message: dict[str, Any]) -> None:
    """As the page does: by second, so that what is told again is not counted again."""
    first = message["second"] - len(message["pulse"]) + 1
    for second, counts in enumerate(message["pulse"], first):
        counted[second] = counts[WORDS.index("refused")]


async def test_a_token_reads_the_stream_too(browser: Browser) -> None:
    """For programs."""
    headers = {"Authorization": f"Bearer {browser.admin}"}
    async with browser.session.get(browser.base + "/v1/events", headers=headers) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert (await anext(_messages(response)))[0] == "board"


async def test_so_many_pages_and_no_more(browser: Browser) -> None:
    """503 for one more; a page that closes makes room."""
    await browser.sign_in()
    live = browser.sidecar._runners[1].app[DESK].live  # type: ignore[attr-defined]
    readers = [live.reader().__enter__() for _ in range(MAX_READERS)]
    with pytest.raises(TooMany):
        live.reader()
    status, body = await browser.ask("GET", "/v1/events")
    assert (status, body["code"]) == (503, "overloaded")
    for reader in readers:
        reader.__exit__(None, None, None)
    async with browser.events() as messages:
        await anext(messages)


async def test_an_open_page_holds_no_shutdown_up(browser: Browser) -> None:
    """It is told, and its stream ends."""
    await browser.sign_in()
    async with browser.events() as messages:
        await anext(messages)
        stopping = asyncio.create_task(browser.sidecar.stop())
        assert await next_where(messages, lambda message: message[0] == "end") == ("end", {"reason": "stopping"})
        async with asyncio.timeout(20):
            await stopping


async def test_a_page_that_does_not_read_is_cut_off(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it missed is not kept for it."""
    from outrider.control import console

    monkeypatch.setattr(console, "SLOW_S", 0.2)
    for n in range(3000):  # a board larger than what the sockets between us hold
        browser.sidecar.services.agents.seen(Call(clock.new_id(), "x.y", {}, agent=_agent(f"{n:04}" + "x" * 200)))
    live = browser.sidecar._runners[1].app[DESK].live  # type: ignore[attr-defined]
    monkeypatch.setattr(type(live), "whole", lambda self, frame: b"data: " + b"x" * 30_000_000 + b"\n\n")
    reader, writer = await asyncio.open_connection(browser.sidecar.control.host, browser.sidecar.control.port)
    writer.write(
        b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n" % browser.admin.encode()
    )
    async with asyncio.timeout(20):
        await reader.readline()
        while live._readers == 0:
            await asyncio.sleep(0.01)
        while live._readers:
            await asyncio.sleep(0.01)
    writer.close()


async def test_a_ledger_that_cannot_be_read_keeps_the_rest_of_the_page_from_nobody(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that is damaged nor one whose database is busy for long."""
    from outrider.ledger import query

    await browser.sign_in()
    busy = threading.Event()

    def latest(folder: Path, n: int) -> list[Any]:
        busy.wait(20)
        raise Misconfigured("damaged")

    monkeypatch.setattr(query, "latest", latest)
    try:
        async with browser.events() as messages:
            _, board = await anext(messages)
            assert (board["tables"]["events"], board["head"]["trouble"]) == ({}, "")
            await call(browser, "ann")
            await next_where(messages, lambda message: "agents" in message[1]["tables"])
            busy.set()
            await call(browser, "bob")
            await next_where(messages, lambda message: "agents" in message[1]["tables"])
    finally:
        busy.set()


# ── the board, by itself ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.looptime
async def test_the_board_is_read_once_for_all_and_not_at_all_for_none() -> None:
    """Ten pages cost what one costs; a reader that comes late gets everything."""
    reads = 0

    async def read() -> Board:
        nonlocal reads
        reads += 1
        return Board({"n": reads}, {})

    live = Live(read)
    await asyncio.sleep(10)
    assert reads == 0
    with live.reader() as one, live.reader() as other:
        for n in range(1, 6):
            told = [await reader.next() for reader in (one, other)]
            assert told[0] == told[1] and told[0] is not None
            assert told[0].startswith(b"event: board" if n == 1 else b"event: change")
        assert reads == 5
        with live.reader() as late:
            assert (await late.next() or b"").startswith(b"event: board")
    await asyncio.sleep(10)
    assert reads == 5


@pytest.mark.looptime
async def test_a_reader_that_missed_a_change_gets_the_whole_again() -> None:
    """Nothing is kept for it."""

    async def read() -> Board:
        return Board({"at": clock.monotonic()}, {})

    live = Live(read)
    with live.reader() as slow:
        await slow.next()
        await asyncio.sleep(3.5)
        assert (await slow.next() or b"").startswith(b"event: board")
        assert (await slow.next() or b"").startswith(b"event: change")


@pytest.mark.looptime
async def test_a_board_that_cannot_be_read_is_told_and_one_that_hangs_too() -> None:
    """The page keeps what it had and says that it is old."""
    trouble: list[Any] = []

    async def read() -> Board:
        if trouble == ["hangs"]:
            await asyncio.sleep(100)
        if trouble:
            raise RuntimeError("a fault")
        return Board({"trouble": "", "n": 1}, {"agents": {"/a": {"name": "a"}}})

    live = Live(read)
    with live.reader() as reader:
        await reader.next()
        trouble.append("fault")
        told = json.loads((await reader.next() or b"").partition(b"data: ")[2])
        assert (told["head"], told["tables"]) == ({"trouble": TROUBLE, "n": 1}, {})
        trouble[:] = ["hangs"]
        while (told := await reader.next()) != b": still here\n\n":
            assert told is not None


def test_only_what_differs_is_told() -> None:
    """New rows, changed rows, gone rows."""
    before = Board({"a": 1}, {"t": {"1": {"x": 1}, "2": {"x": 2}, "3": {"x": 3}}, "u": {}})
    after = Board({"a": 1}, {"t": {"1": {"x": 1}, "2": {"x": 5}, "4": {"x": 4}}, "u": {}})
    assert changes(before, after)["tables"] == {"t": {"set": {"2": {"x": 5}, "4": {"x": 4}}, "gone": ["3"]}}
    assert changes(after, after) == {"tables": {}, "second": 0, "pulse": []}


def test_the_last_seconds_are_told_again_and_none_is_left_out() -> None:
    """What peers counted is learnt a little later; a board that was not read for long makes up for it."""
    history = [[n, 0, 0, 0, 0] for n in range(100)]
    soon = changes(Board({}, {}, 99, history), Board({}, {}, 100, history))
    assert (soon["second"], soon["pulse"]) == (100, history[-TAIL:])
    assert changes(Board({}, {}, 60, history), Board({}, {}, 100, history))["pulse"] == history[-40:]


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_text_is_short_and_can_be_sent() -> None:
    """A lone surrogate is no Unicode; what it is shown as is the page's affair."""
    assert text("\ud800") == "?"
    assert text("x" * 1000) == "x" * (MAX_TEXT - 1) + "…"
    assert text(None) == ""
    assert text("<b>\u202e") == "<b>\u202e"


def listed(name: str, standing: str = "seen", **more: Any) -> dict[str, Any]:
    counts = {"calls": 0, "failures": 0, "refused": 0, "in_flight": 0}
    words = {"framework": "", "owner": "", "asserted": True, "instances": [], "tools": [], "last_seen": ""}
    known = {"state": "seen", "observed": None, "declared": None, "quarantined": False, "drift": []}
    return {"name": name, "standing": standing} | counts | words | known | more


def test_agents_that_need_a_look_are_never_those_left_out() -> None:
    """A lost one is shown though its name comes last."""
    table = agents([*(listed(f"a{n}") for n in range(MAX_AGENTS)), listed("zz", "lost", observed="lost")], "")
    assert len(table) == MAX_AGENTS
    assert next(iter(table)) == "/zz"


def test_what_is_wrong_with_an_agent_is_said_and_the_worst_of_it_comes_first() -> None:
    """Undeclared before lost before degraded."""
    table = agents(
        [
            listed("fine", declared=True),
            listed("ill", "degraded", observed="degraded"),
            listed("gone", "lost", observed="lost"),
            listed("nobody", "ready", declared=False, drift=["x"]),
            listed("wild", "killed", observed="lost", declared=False, quarantined=True),
        ],
        "",
    )
    assert [(row["name"], row["state"], row["words"]) for row in table.values()] == [
        ("nobody", "ready", ["undeclared", "drifted"]),
        ("wild", "killed", ["undeclared", "quarantined", "lost"]),
        ("gone", "lost", []),
        ("ill", "degraded", []),
        ("fine", "seen", []),
    ]


def test_a_broken_function_of_one_agent_is_a_row_of_its_own() -> None:
    """The upstream `local` is many fault domains, and one of them is not all of them."""

    def domain(key: str, state: str) -> dict[str, Any]:
        bulkhead = {"held": 1, "waiting": 0}
        return {"key": key, "breaker": {"state": state, "times_opened": 1}, "bulkhead": bulkhead}

    home = {"name": "local", "kind": "local", "probed": False, "health": {"ready": True}}
    domains = [domain("local/a/x", "closed"), domain("local/b/y", "open")]
    table = upstreams([home | {"domains": domains}], "")
    assert [(row["name"], row["breaker"]) for row in table.values()] == [("local", "closed"), ("local/b/y", "open")]
    assert table["/local"]["held"] == 2


def test_a_record_that_is_damaged_is_a_row_all_the_same() -> None:
    """Whoever looks at the page sees that something is there."""
    assert events([{"«damaged»": "x", "hash": "y"}], "")["/0"]["type"] == ""


async def test_the_last_events_are_ends_and_changes_not_steps(browser: Browser) -> None:
    """A busy call's own steps do not push a kill out of sight."""
    await browser.sign_in()
    for _ in range(3):
        await call(browser, "ann")
    await browser.sidecar.services.ledger.append(Event(type=EventType.SIDECAR_STARTED), durable=True)
    async with browser.events() as messages:
        _, board = await anext(messages)
    kinds = [row["type"] for row in board["tables"]["events"].values()]
    assert kinds.count("call.refused") == 3
    assert "call.received" not in kinds


# ── of several sidecars ──────────────────────────────────────────────────────────────────────────────────────────────


def own_board(name: str, agent: str, second: int, counted: int) -> Board:
    tables = {word: {} for word in SHAPES} | {"agents": agents([listed(agent)], name)}
    kill = dict.fromkeys(KILL, "k") | {"sidecar": name, "id": "one", "durable": True}
    counts = {"agents": 1, "calls": 0, "upstreams": 0, "kills": 1}
    return Board(
        {"counts": counts}, tables | {"kills": {f"{name}/one": kill}}, second, [[0] * 5, [counted, 0, 0, 0, 0]]
    )


def over_the_wire(sheet: Sheet) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(json.dumps(sheet.as_dict()))
    return told


def test_the_boards_of_several_sidecars_are_one() -> None:
    """Agents of each, a kill once, counts summed."""
    there = sheet("b", over_the_wire(Sheet("b", "boot", own_board("", "bob", 7, 3))))
    merged = Merger().boards(own_board("a", "ann", 100, 2), [there], {})
    assert list(merged.tables["agents"]) == ["a/ann", "b/bob"]
    assert list(merged.tables["kills"]) == ["/one"]
    assert merged.head["counts"] == {"agents": 2, "calls": 0, "upstreams": 0, "kills": 1}


def test_the_seconds_of_a_peer_are_laid_over_ours_the_same_way_each_time() -> None:
    """Its answer may come a little sooner or later; no call moves to another second for that."""
    merger, own = Merger(), own_board("a", "ann", 100, 2)
    first = merger.pulse(100, [Sheet("b", "boot", own_board("b", "bob", 7, 3))])
    assert added(own, first).pulse[-1] == [5, 0, 0, 0, 0]
    later = merger.pulse(102, [Sheet("b", "boot", own_board("b", "bob", 8, 4))])
    assert later == {101: [4, 0, 0, 0, 0]}
    anew = merger.pulse(103, [Sheet("b", "another boot", own_board("b", "bob", 1, 9))])
    assert anew == {103: [9, 0, 0, 0, 0]}


@given(given=JSON)
def test_nothing_that_a_peer_says_breaks_the_page(given: Any) -> None:
    """Whatever it is, it becomes rows of our own shapes, or nothing."""
    told = sheet("b", given if isinstance(given, dict) else {"tables": given, "pulse": given, "head": given})
    for name, shape in SHAPES.items():
        for row in told.board.tables[name].values():
            assert {key: type(value) for key, value in row.items()} == {
                key: type(value) for key, value in shape.items()
            }
    assert all(len(counts) == len(WORDS) for counts in told.board.pulse)
    json.dumps(Merger().boards(own_board("a", "ann", 100, 2), [told], {}).tables)
