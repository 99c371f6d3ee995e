"""Headless Chromium of the system, looking at the page of a real sidecar, and everything that a page must not do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Playwright, expect

from outrider.testing.gateway import GatewayProcess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)


def chromium() -> str | None:
    """Where it is; None where this machine has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def launch(playwright: Playwright, path: str) -> Browser:
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])


class Visit:
    """One page, and what happened on it. ``faults``: errors on its console, dialogs, exceptions, requests elsewhere."""

    def __init__(self, page: Page, gateway: GatewayProcess) -> None:
        self.page, self.gateway = page, gateway
        self.faults: list[str] = []
        self.tolerated: tuple[str, ...] = ()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._said)
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        page.on("request", self._asked)

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _asked(self, request: Any) -> None:
        if urlsplit(request.url).netloc != self.gateway.control_address:
            self.faults.append(f"request: {request.url}")

    def tolerate(self, *texts: str) -> None:
        """The browser itself reports refused and broken requests on the console; the test says which it causes."""
        self.tolerated += texts

    def untolerated(self) -> list[str]:
        return [fault for fault in self.faults if not any(text in fault for text in self.tolerated)]

    def open(self) -> Visit:
        self.page.goto(self.gateway.control_url)
        return self

    def sign_in(self, token: str | None = None, name: str = "eve") -> Visit:
        self.page.get_by_label("Admin token").fill(token or self.gateway.admin_token)
        self.page.get_by_label("Your name").fill(name)
        self.page.get_by_role("button", name="Sign in").click()
        return self

    def live(self) -> Visit:
        expect(self.page.locator("#state")).to_have_text("Live")
        return self

    def row(self, section: str, text: str) -> Any:
        return self.page.locator(f"#{section} tbody tr").filter(has_text=text)


@contextmanager
def visiting(browser: Browser, gateway: GatewayProcess, **how: Any) -> Iterator[Visit]:
    """A page of its own, with cookies of its own."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
    try:
        yield Visit(context.new_page(), gateway)
    finally:
        context.close()
