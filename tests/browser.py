"""A real browser that looks at a page: Debian's chromium, headless, with no network to use."""

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
MISSING = "there is no chromium to look with: apt-get install chromium"


@contextmanager
def browser() -> Iterator[Browser]:
    """Started once, for many pages; skips the test where there is none, but never on CI."""
    if not CHROMIUM:
        assert "CI" not in os.environ, MISSING
        pytest.skip(MISSING)
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Seen:
    """A page that a browser has opened, and what went wrong there."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda told: self.complaints.append(told.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.route("**/*", self._requested)

    def _requested(self, route: Route) -> None:
        self.requests.append(route.request.url)
        route.continue_() if route.request.url.startswith("file:") else route.abort()

    def open(self, path: Path) -> None:
        """Load it, until it has drawn itself; fails where it complains."""
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=20_000)
        assert self.complaints == []

    def text(self, selector: str) -> str:
        """Of the first such element."""
        return self.page.locator(selector).first.inner_text()

    def cells(self, table: str) -> list[list[str]]:
        """A table's rows."""
        rows = self.page.locator(f"{table} tbody tr").all()
        return [[cell.inner_text() for cell in row.locator("th, td").all()] for row in rows]

    def press(self, group: str, value: str) -> None:
        """One of a setting's buttons."""
        self.page.click(f"#{group} [data-value={value}]")

    def run(self, script: str) -> Any:
        """What JavaScript finds there."""
        return self.page.evaluate(script)


@contextmanager
def seen(browser: Browser, path: Path, width: int = 1400, theme: Any = "light") -> Iterator[Seen]:
    """A file, opened at a window's width in pixels; at the end it must not have complained."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    found = Seen(page)
    found.open(path)
    yield found
    assert found.complaints == []
    assert found.requests == [path.resolve().as_uri()]
    page.close()
