"""The page, as people see it: headless Chromium at a real sidecar."""

from __future__ import annotations

import concurrent.futures
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from outrider.console.rows import MAX_TEXT
from outrider.testing.gateway import GatewayProcess
from outrider.testing.upstream_process import UpstreamProcess
from tests.browser.kit import Visit, visiting

REFUSED = "401 (Unauthorized)"
BROKEN = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(2)</script>",
    "javascript:alert(3)",
    '"><svg onload=alert(4)>',
    "{{7*7}}${7*7}",
    "🔥 überprüfung مرحبا",
    "x" * 200,
    "agent*",
    "' OR 1=1 --",
    "__proto__",
    "constructor",
)
UNSEEN = "turns \u202ednuor what follows, \u200bnothing, a bell\u0007\nand <b>markup</b>"
"""Names with such characters are refused before they are anybody's; a reason is whatever a person writes."""


@contextmanager
def held(gateway: GatewayProcess, upstream: UpstreamProcess, count: int, agent: str = "ann") -> Iterator[Any]:
    """Calls in flight, until the block ends."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        before = upstream.count("/held")
        asked = [pool.submit(gateway.call, "work.held", {"n": n}, agent=agent, run=f"r-{agent}") for n in range(count)]
        try:
            upstream.wait_for(before + count, "/held")
            yield asked
        finally:
            upstream.release()


# ── signing in ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_wrong_token_is_told_and_the_right_one_opens_the_page(visit: Visit) -> None:
    """What is wrong, and where the right one lies; by keyboard alone."""
    visit.tolerate(REFUSED)
    expect(visit.page.get_by_label("Admin token")).to_be_focused()
    visit.page.keyboard.type("not-the-token-of-anybody")
    visit.page.keyboard.press("Enter")
    expect(visit.page.get_by_role("alert").first).to_contain_text("admin.token in the data folder")
    assert not visit.page.locator("#board").is_visible()
    visit.sign_in().live()
    expect(visit.page.locator("#about")).to_contain_text("looked-at")
    expect(visit.page.locator("#door")).to_be_hidden()


def test_a_page_loaded_again_is_still_signed_in_until_signed_out(visit: Visit) -> None:
    """And signing out in one tab closes the other."""
    visit.tolerate(REFUSED)
    visit.sign_in().live()
    visit.page.reload()
    visit.live()
    other = visit.page.context.new_page()
    other.goto(visit.gateway.control_url)
    expect(other.locator("#state")).to_have_text("Live")
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_label("Admin token")).to_be_visible()
    expect(visit.page.get_by_label("Admin token")).to_be_visible()
    expect(visit.page.locator("#door-note")).to_contain_text("sign in again")


def test_no_script_can_read_the_cookie(visit: Visit) -> None:
    """Nor is the token kept anywhere in the page."""
    visit.sign_in().live()
    assert visit.page.evaluate("document.cookie") == ""
    assert visit.page.evaluate("JSON.stringify([localStorage, sessionStorage])") == "[{},{}]"
    assert visit.page.get_by_label("Admin token").input_value() == ""


# ── what it shows ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_empty_page_says_what_to_do(visit: Visit) -> None:
    """No table of nothing."""
    visit.sign_in().live()
    expect(visit.page.locator("#calls .nothing")).to_have_text("No call is under way.")
    expect(visit.page.locator("#kills .nothing")).to_have_text("Nothing is stopped.")
    visit.page.locator("#agents .filter").fill("nobody of this name")
    expect(visit.page.locator("#agents .nothing")).to_have_text("Nothing matches the filter.")


def test_calls_are_seen_as_they_happen(visit: Visit, upstream: UpstreamProcess) -> None:
    """In flight, then ended; what a retry saved, what failed; without anybody loading the page again."""
    visit.sign_in().live()
    gateway = visit.gateway
    with held(gateway, upstream, 2, agent="seen-live"):
        expect(visit.row("calls", "seen-live")).to_have_count(2)
        expect(visit.row("calls", "seen-live").first).to_contain_text("sent")
        expect(visit.row("agents", "seen-live")).to_contain_text("2")
    expect(visit.row("calls", "seen-live")).to_have_count(0)
    assert gateway.call("work.flaky", {}, agent="seen-live")[0] == 200
    assert gateway.call("work.bad", {}, agent="seen-live")[0] == 502
    assert gateway.call("nowhere.at_all", {}, agent="seen-live")[0] in (403, 404)
    expect(visit.page.locator("#readout")).to_contain_text(re.compile(r"[1-9]\d* saved by retries"))
    expect(visit.page.locator("#readout")).to_contain_text(re.compile(r"[1-9]\d* failed"))
    expect(visit.page.locator("#readout")).to_contain_text(re.compile(r"[1-9]\d* refused"))
    expect(visit.page.locator("#plot-calls rect.saved").first).to_be_attached()
    expect(visit.page.locator("#plot-saved rect.failed").first).to_be_attached()
    expect(visit.page.locator("#verdict")).to_contain_text("would have failed")
    expect(visit.row("events", "work.flaky").first).to_contain_text("ok, attempt 2")


def test_a_bar_can_be_read_by_pointer_and_by_key(visit: Visit) -> None:
    """The sentence below the plot says what the bar stands for."""
    visit.gateway.call("work.good", {}, agent="ann")
    visit.sign_in().live()
    expect(visit.page.locator("#readout")).to_contain_text("In all:")
    visit.page.locator("#plot-calls").focus()
    visit.page.keyboard.press("ArrowLeft")
    expect(visit.page.locator("#readout")).to_contain_text(re.compile(r", \d+ s: \d+ calls"))
    visit.page.keyboard.press("Escape")
    expect(visit.page.locator("#readout")).to_contain_text("In all:")
    visit.page.locator("#plot-calls").hover()
    expect(visit.page.locator("#readout")).to_contain_text(re.compile(r", \d+ s: \d+ calls"))


def test_a_time_is_local_and_in_utc_on_hover(visit: Visit) -> None:
    """So that two people in two places can talk about one moment."""
    visit.gateway.call("work.good", {}, agent="ann")
    visit.sign_in().live()
    moment = visit.page.locator("#events time").first
    expect(moment).to_have_attribute("title", re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$"))


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_kill_takes_a_reason_and_two_clicks_and_shows_its_receipt(visit: Visit, upstream: UpstreamProcess) -> None:
    """From an agent's row; the first click only arms, and nothing is stopped before the second."""
    visit.sign_in().live()
    gateway, page = visit.gateway, visit.page
    with held(gateway, upstream, 2, agent="wild"), held(gateway, upstream, 1, agent="tame") as tame:
        visit.row("agents", "wild").get_by_role("button", name="Stop agent wild").click()
        go = page.locator("#kill-go")
        expect(page.get_by_label("Its name")).to_have_value("wild")
        expect(page.get_by_label("Why")).to_be_focused()
        expect(page.locator("#kill-covers")).to_contain_text("Calls in flight now: 2")
        go.click()
        expect(page.locator("#kill-fault")).to_have_text("Say why, for those who read it later.")
        page.keyboard.type("it loops")
        go.dblclick()  # one slip of the hand is no decision
        expect(go).to_have_text("Really stop wild?")
        assert gateway.control("GET", "/v1/kills")[1]["kills"] == []
        page.wait_for_timeout(700)
        go.click()
        receipt = page.locator("#receipt")
        expect(receipt.get_by_role("heading")).to_have_text("Stopped: agent wild")
        expect(receipt).to_contain_text("2may have run")
        expect(receipt.locator(".warning")).to_contain_text("look it up before it is tried again")
        (kill,) = gateway.control("GET", "/v1/kills")[1]["kills"]
        assert (kill["scope"], kill["reason"], kill["by"]) == ("agent:wild", "it loops", "console (eve)")
        expect(receipt).to_contain_text(f"outrider revive {kill['id']}")
        page.get_by_role("button", name="Close").click()
        expect(visit.row("kills", "agent:wild")).to_contain_text("it loops")
        expect(visit.row("agents", "wild")).to_contain_text("stopped")
        assert not tame[0].done()
    gateway.control("DELETE", f"/v1/kills/{kill['id']}", {"reason": "mended"})
    expect(page.locator("#kills .nothing")).to_have_text("Nothing is stopped.")
    expect(visit.row("agents", "wild")).not_to_contain_text("stopped")


def test_an_armed_kill_is_forgotten(visit: Visit) -> None:
    """After some seconds, and as soon as anything about it is changed."""
    page, go = visit.page, visit.page.locator("#kill-go")
    page.clock.install()
    visit.sign_in().live()
    page.get_by_role("button", name="Stop…", exact=True).first.click()
    page.get_by_label("What").select_option("global")
    expect(page.get_by_label("Its name")).to_be_hidden()
    page.get_by_label("Why").fill("x")
    go.click()
    expect(go).to_have_text("Really stop everything?")
    page.get_by_label("Why").fill("xy")
    expect(go).to_have_text("Stop")
    go.click()
    expect(go).to_have_text("Really stop everything?")
    page.clock.fast_forward(8000)
    expect(go).to_have_text("Stop")
    page.keyboard.press("Escape")
    expect(page.locator("#kill")).to_be_hidden()
    assert visit.gateway.control("GET", "/v1/kills")[1]["kills"] == []


def test_a_kill_that_is_refused_or_not_answered_says_so_and_is_not_sent_again(visit: Visit) -> None:
    """One click is one request, whatever becomes of it."""
    visit.tolerate("400 (Bad Request)", "ERR_FAILED")
    visit.sign_in().live()
    page, go, asked = visit.page, visit.page.locator("#kill-go"), []
    page.on("request", lambda request: asked.append(request.method) if request.url.endswith("/v1/kills") else None)
    page.locator("#open-kill").click()
    page.get_by_label("Its name").fill("a*b")
    page.get_by_label("Why").fill("x")
    for _ in range(2):
        go.click()
        page.wait_for_timeout(700)
    expect(page.locator("#kill-fault")).to_contain_text("only a last one makes a prefix")
    page.route("**/v1/kills", lambda route: route.abort())
    for _ in range(2):
        go.click()
        page.wait_for_timeout(700)
    expect(page.locator("#kill-fault")).to_contain_text("It may be stopped all the same")
    assert asked == ["POST", "POST"]


# ── what is thrown at it ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_thousand_agents_and_hostile_names_are_shown_safely_and_quickly(
    visit: Visit, upstream: UpstreamProcess
) -> None:
    """No dialog, no error, no request elsewhere (the fixture looks); what cannot be seen in a name is shown."""
    gateway, page = visit.gateway, visit.page
    names = [*HOSTILE, *(f"crowd-{n:04}" for n in range(1000 - len(HOSTILE) - 20))]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for name in HOSTILE:
            pool.submit(gateway.call, "work.bad", {}, agent=name, run=name)
            pool.submit(gateway.call, f"work.{name}"[:200], {}, agent=name, session=name)
        list(pool.map(lambda name: gateway.call("work.good", {}, agent=name)[0], names))
    visit.sign_in().live()
    for name in HOSTILE[:4]:  # a star inside a name makes no scope
        gateway.control("POST", "/v1/kills", {"scope": f"agent:{name}", "reason": f"{name} {UNSEEN}"})
        expect(visit.row("kills", name).first).to_be_visible()
    expect(page.locator("#agents tbody tr")).to_have_count(25)
    expect(page.locator("#agents .more")).to_contain_text(re.compile(r"and \d{3} more"))
    for name in HOSTILE[:5]:
        page.locator("#agents .filter").fill(name)
        expect(visit.row("agents", name)).to_have_count(1)
    expect(visit.row("kills", HOSTILE[0]).first).to_contain_text(r"turns \u{202e}dnuor what follows, \u{200b}nothing")
    page.locator("#agents .filter").fill("")
    while page.locator("#agents .more").is_visible():
        page.locator("#agents .more").click()
    expect(page.locator("#agents tbody tr bdi.strong")).to_have_count(len(set(names)) + others(gateway, names))
    assert (
        page.evaluate("document.querySelectorAll('#board img, #board script, #board iframe').length") == 1
    )  # the mark
    took_ms = page.evaluate(
        "() => new Promise(done => { const at = performance.now();"
        " document.querySelector('#agents .filter').dispatchEvent(new Event('input'));"
        " requestAnimationFrame(() => done(performance.now() - at)); })"
    )
    assert took_ms < 5000
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def others(gateway: GatewayProcess, names: list[str]) -> int:
    """Agents of other tests."""
    return len({agent["name"] for agent in gateway.control("GET", "/v1/agents")[1]["agents"]} - set(names))


def test_a_hostile_name_is_stopped_by_its_row(visit: Visit) -> None:
    """What is asked for is the name itself, not what it looks like."""
    name = HOSTILE[0]
    visit.gateway.call("work.good", {}, agent=name)
    visit.sign_in().live()
    visit.page.locator("#agents .filter").fill(name)
    visit.row("agents", name).get_by_role("button").click()
    visit.page.get_by_label("Why").fill("hostile")
    visit.page.locator("#kill-go").click()
    visit.page.wait_for_timeout(700)
    visit.page.locator("#kill-go").click()
    expect(visit.page.locator("#receipt h2")).to_contain_text(name)
    assert [kill["scope"] for kill in visit.gateway.control("GET", "/v1/kills")[1]["kills"]] == [f"agent:{name}"]
    assert len(name) < MAX_TEXT


# ── when the line breaks ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sidecar_that_does_not_answer_is_told_loudly_and_found_again(visit: Visit) -> None:
    """It is stopped as by a debugger: the line stays open and silent. Then it goes on, and so does the page."""
    visit.page.clock.install()
    visit.sign_in().live()
    visit.gateway._started.send_signal(signal.SIGSTOP)
    visit.page.wait_for_timeout(500)  # what was on its way arrives
    visit.page.clock.fast_forward(8000)
    try:
        expect(visit.page.locator("#state")).to_have_text("Connection lost")
        expect(visit.page.locator("#alarms")).to_contain_text("What you see is of")
    finally:
        visit.gateway._started.send_signal(signal.SIGCONT)
    visit.live()
    expect(visit.page.locator("#alarms")).to_be_empty()
    visit.gateway.call("work.good", {}, agent="after-the-silence")
    visit.page.locator("#agents .filter").fill("after-the")
    expect(visit.row("agents", "after-the-silence")).to_have_count(1)


def test_a_page_that_nobody_looks_at_costs_the_sidecar_nothing(visit: Visit) -> None:
    """After a minute in the background its line is closed and stays so, until somebody looks again."""
    page, begun, ended = visit.page, [], []
    for event, urls in (("request", begun), ("requestfailed", ended), ("requestfinished", ended)):
        page.on(event, lambda request, urls=urls: urls.append(1) if request.url.endswith("/v1/events") else None)
    page.clock.install()
    visit.sign_in().live()
    look(visit, away=True)
    page.clock.run_for(3000)
    assert (len(begun), len(ended)) == (1, 0)
    page.clock.run_for(60_000)
    page.wait_for_timeout(500)
    closed = len(begun)
    assert len(ended) == closed
    page.clock.run_for(60_000)
    page.wait_for_timeout(500)
    assert len(begun) == closed
    with page.expect_request("**/v1/events"):
        look(visit, away=False)
    visit.live()


def look(visit: Visit, *, away: bool) -> None:
    """Bring the page to the background, or back."""
    hidden = "true" if away else "false"
    visit.page.evaluate(f"Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}})")
    visit.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_a_sidecar_that_is_restarted_is_found_again(visit: Visit) -> None:
    """Nobody is signed in at the new one; the page says so, and goes on after that."""
    visit.tolerate(REFUSED, *BROKEN)
    visit.sign_in().live()
    visit.gateway.kill9()
    expect(visit.page.locator("#state")).to_have_text("Connection lost")
    visit.gateway.start()
    expect(visit.page.locator("#door-note")).to_contain_text("the sidecar was restarted")
    visit.sign_in().live()


def test_a_drain_is_told(browser: Browser, upstream: UpstreamProcess, tmp_path: Path) -> None:
    """While it lasts the page goes on; then the line ends with a word."""
    policy = {
        "upstreams": {"work": {"http": {"url": upstream.url}}},
        "tools": [{"match": "work.held", "effect": "write", "timeouts": {"perTry": "60s", "total": "90s"}}],
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }
    with GatewayProcess(policy, tmp_path / "data") as gateway, visiting(browser, gateway) as visit:
        visit.tolerate(*BROKEN)
        visit.open().sign_in().live()
        with held(gateway, upstream, 1):
            gateway._started.send_signal(signal.SIGTERM)
            expect(visit.page.locator("#state")).to_have_text("shutting down")
            expect(visit.row("calls", "work.held")).to_have_count(1)
        expect(visit.page.locator("#state")).to_have_text("Connection lost")
        assert visit.untolerated() == []


# ── how it looks ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 768, 1440])
def test_it_fits_and_can_be_read(browser: Browser, gateway: GatewayProcess, scheme: str, width: int) -> None:
    """No sideways scrolling at any width; text stands off its ground in both schemes (WCAG AA: 4.5 to 1)."""
    gateway.call("work.good", {}, agent="x" * 200)
    gateway.control("POST", "/v1/kills", {"scope": "global", "reason": "y" * 300})
    with visiting(browser, gateway, color_scheme=scheme, viewport={"width": width, "height": 800}) as visit:
        visit.open().sign_in().live()
        expect(visit.page.locator("#alarms")).to_contain_text("Everything is stopped")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        texts = (
            "h2",
            ".figure span",
            ".pill",
            ".alarms p",
            "#about",
            "button.danger",
            "td .strong",
            ".under",
            "th",
            ".zero",
        )
        for selector in texts:
            assert visit.page.evaluate(CONTRAST, selector) >= 4.5, selector
        assert visit.untolerated() == []


CONTRAST = """selector => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (one) => {
    const colour = getComputedStyle(one).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? ground(one.parentElement) : colour;
  };
  return Math.min(...[...document.querySelectorAll(selector)].filter(one => one.checkVisibility()).map(one => {
    const pair = [light(getComputedStyle(one).color), light(ground(one))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  }));
}"""


def test_times_pass_on_the_page_by_the_sidecars_clock(browser: Browser, gateway: GatewayProcess) -> None:
    """A machine whose clock is an hour off shows the same ages."""
    gateway.call("work.good", {}, agent="just-now")
    with visiting(browser, gateway) as visit:
        visit.page.clock.install(time=time.time() + 3600)
        visit.open().sign_in()
        visit.page.clock.run_for(3000)
        visit.page.locator("#agents .filter").fill("just-now")
        expect(visit.row("agents", "just-now").locator("time")).to_have_text(re.compile(r"^(now|\d\d? s ago)$"))
