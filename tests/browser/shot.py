"""The screenshots of the documentation, of a real run: ``python -m tests.browser.shot FOLDER``.

Writes console-light.png (the README's), console-dark.png and both whole, console-narrow.png, console-door.png,
console-armed.png and console-receipt.png."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from outrider.testing.gateway import GatewayProcess
from tests.browser.kit import Visit, chromium, launch, visiting
from tests.browser.lively import Crowd, Services

WORKED_S = 62.0


def main(folder: Path, worked_s: float = WORKED_S) -> None:
    path = chromium()
    if path is None:
        raise SystemExit("No Chromium on this machine.")
    with Services() as services, GatewayProcess(services.policy()) as gateway, sync_playwright() as playwright:
        browser = launch(playwright, path)
        with Crowd(gateway):
            time.sleep(worked_s)
            gateway.control(
                "POST", "/v1/kills", {"scope": "agent:release-notes", "reason": "posts the same note again"}
            )
            time.sleep(2)
            shots(browser, gateway, folder)
        browser.close()


def shots(browser: Browser, gateway: GatewayProcess, folder: Path) -> None:
    for scheme in ("light", "dark"):
        with visiting(browser, gateway, color_scheme=scheme, viewport={"width": 1280, "height": 860}) as visit:
            look(visit)
            visit.page.screenshot(path=folder / f"console-{scheme}.png", full_page=False)
            visit.page.screenshot(path=folder / f"console-{scheme}-full.png", full_page=True)
    with visiting(browser, gateway, viewport={"width": 400, "height": 800}) as visit:
        look(visit)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 400
        visit.page.screenshot(path=folder / "console-narrow.png", full_page=True)
    with visiting(browser, gateway) as visit:
        visit.open().page.screenshot(path=folder / "console-door.png")
        look(visit)
        visit.row("agents", "billing").get_by_role("button").click()
        visit.page.get_by_label("Why").fill("refunds go out twice")
        visit.page.locator("#kill-go").click()
        visit.page.screenshot(path=folder / "console-armed.png")
        time.sleep(0.8)
        visit.page.locator("#kill-go").click()
        visit.page.locator("#receipt h2").wait_for()
        visit.page.screenshot(path=folder / "console-receipt.png")


def look(visit: Visit) -> None:
    visit.open().sign_in().live()
    visit.page.get_by_text("1 min", exact=True).click()
    visit.page.wait_for_timeout(1500)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else WORKED_S)
