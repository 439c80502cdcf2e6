"""A real browser that opens a page: Debian's chromium, headless, without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
MISSING = "no chromium found: apt-get install chromium"
LAST_LIMIT = 300_000.0
"""Milliseconds after which a test fails that waits for a page: no machine needs them."""


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser for many pages; skips the test if there is none, but not on CI."""
    if not CHROMIUM:
        assert "CI" not in os.environ, MISSING
        pytest.skip(MISSING)
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class OpenPage:
    """A page that a browser has opened, and its complaints and requests."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.route("**/*", self._requested)

    def _requested(self, route: Route) -> None:
        self.requests.append(route.request.url)
        route.continue_() if route.request.url.startswith("file:") else route.abort()

    def open(self, path: Path) -> None:
        """Load the page and wait until it has drawn itself; fails if it complains."""
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=LAST_LIMIT)
        assert self.complaints == []

    def text(self, selector: str) -> str:
        """The text of the first such element."""
        return self.page.locator(selector).first.inner_text()

    def cells(self, table: str) -> list[list[str]]:
        """The cells of a table, by row."""
        rows = self.page.locator(f"{table} tbody tr").all()
        return [[cell.inner_text() for cell in row.locator("th, td").all()] for row in rows]

    def press(self, group: str, value: str) -> None:
        """Press one of a setting's buttons."""
        self.page.click(f"#{group} [data-value={value}]")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.page.evaluate(script)


@contextmanager
def open_page(
    browser: Browser, path: Path, width: int = 1400, theme: Any = "light"
) -> Iterator[OpenPage]:
    """A file in a window of so many pixels' width; fails if it has complained by the end."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    page.set_default_timeout(LAST_LIMIT)
    opened = OpenPage(page)
    opened.open(path)
    yield opened
    assert opened.complaints == []
    assert opened.requests == [path.resolve().as_uri()]
    page.close()
