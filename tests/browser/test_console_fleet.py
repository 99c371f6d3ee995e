"""The page of one sidecar, with two others: all of them are on it, and silence is loud."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from playwright.sync_api import Browser, expect

from outrider.testing.upstream_process import UpstreamProcess
from tests.browser.kit import Visit, visiting
from tests.support.eventually import eventually
from tests.support.fleet_kit import Trio


def stop(visit: Visit, agent: str) -> None:
    """By its row, with both clicks."""
    visit.row("agents", agent).get_by_role("button").click()
    visit.page.get_by_label("Why").fill("it loops")
    visit.page.locator("#kill-go").click()
    visit.page.wait_for_timeout(700)
    visit.page.locator("#kill-go").click()


def test_one_page_shows_and_stops_what_runs_at_every_sidecar(
    browser: Browser, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    """Agents, calls, counts and kills of all; one that does not answer is named, on the page and in the receipt."""
    policy = {
        "upstreams": {"work": {"http": {"url": upstream.url}}},
        "tools": [{"match": "work.held", "effect": "write", "timeouts": {"perTry": "60s", "total": "90s"}}],
        "rules": [{"name": "all", "tools": ["work.*"], "then": "allow"}],
    }
    with (
        Trio(tmp_path, policy, timeout_s=1.0) as trio,
        visiting(browser, trio[0]) as visit,
        ThreadPoolExecutor() as pool,
    ):
        assert eventually(trio.in_step, 30)
        visit.open().sign_in().live()
        expect(visit.page.locator("#sidecars tbody tr")).to_have_count(2)
        expect(visit.row("sidecars", "answers")).to_have_count(2)
        for n in range(30):
            trio[1 + n % 2].call("work.good", {}, agent=f"home-{1 + n % 2}")
        expect(visit.row("agents", "home-1")).to_contain_text("at ")
        expect(visit.row("agents", "home-2")).to_contain_text("15")
        expect(visit.page.locator("#readout")).to_contain_text(re.compile(r"In all: 30 calls · 30 ok"))
        before = upstream.count("/held")
        asked = pool.submit(trio[2].call, "work.held", {}, agent="far-away")
        upstream.wait_for(before + 1, "/held")
        expect(visit.row("calls", "far-away")).to_have_count(1)
        os.kill(trio[1].pid, signal.SIGSTOP)
        try:
            expect(visit.page.locator("#alarms")).to_contain_text("does not answer: what runs there is not shown")
            expect(visit.row("sidecars", "no answer")).to_have_count(1)
            expect(visit.row("agents", "home-1")).to_have_count(0)
            stop(visit, "far-away")
            receipt = visit.page.locator("#receipt")
            expect(receipt).to_contain_text("1may have run")
            expect(receipt.locator(".warning").filter(has_text="did not answer")).to_have_count(1)
            assert asked.result(20)[1]["code"] == "killed"
        finally:
            os.kill(trio[1].pid, signal.SIGCONT)
            upstream.release()
        visit.page.get_by_role("button", name="Close").click()
        expect(visit.row("kills", "agent:far-away")).to_have_count(1)
        expect(visit.row("sidecars", "answers")).to_have_count(2)
        assert visit.untolerated() == []
