"""What a report's charts show of steps and epochs, and what a run came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from job.report.page import report
from job.store.directory import DirectoryStore
from tests.support.browser import OpenPage, browser, open_page
from tests.support.long_run import EPOCH, SPIKE, long_run, spec_of, store_events

Line = dict[str, Any]
ORIGIN = {
    "run": "long/a", "store": "runs", "step": 2 * EPOCH, "epoch": 2, "sha256": "0123456789abcdef",
}  # fmt: skip
EXTENDS: Line = ORIGIN | {
    "kind": "extends", "changed": ["$.train.epochs: 2 → 4"], "schedule": "the rate stays",
}  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for this file."""
    with browser() as started:
        yield started


def page_of(tmp_path: Path, steps: int, tasks: int, runs: int = 1) -> Path:
    """The page of a made-up run, or of some of them."""
    store, file = DirectoryStore(tmp_path), tmp_path / "page.html"
    for i in range(runs):
        store_events(store, f"long/run-{i}", long_run(steps, tasks), spec_of(steps, tasks))
    file.write_text(report([(store, f"long/run-{i}") for i in range(runs)]))
    return file


def test_the_axis_is_that_of_the_epochs(chromium: Browser, tmp_path: Path) -> None:
    """A spike of one step, and its noise, leave the axis of losses as it is."""
    with open_page(chromium, page_of(tmp_path, 2000, 2)) as page:
        epochs = page.run("""CHARTS[0].entries.filter((entry) => entry.by === "epoch")
            .flatMap((entry) => entry.ys)""")
        low, high = page.run("[CHARTS[0].plot.scales.y.min, CHARTS[0].plot.scales.y.max]")
        assert max(page.run("DATA.runs[0].steps.tasks.task_00.loss_original.high")) == SPIKE
        assert low <= min(epochs) < max(epochs) <= high
        assert high < 3 * max(epochs) < SPIKE


def test_a_smoothed_curve_has_the_raw_one_behind_it(chromium: Browser, tmp_path: Path) -> None:
    """Smoothing adds a line, fades the raw one, and changes no value that is read."""
    lines = "CHARTS.find((c) => c.label.includes('weights')).plot"
    with open_page(chromium, page_of(tmp_path, 800, 2)) as page:
        raw = page.run(f"[...{lines}.data[1]]")
        legend = page.page.locator("#weights .legend").inner_text()
        colour = page.run(f"{lines}.series[1].stroke()")
        page.press("smooth", "much")
        assert page.run(f"{lines}.series.length") == 5
        assert page.run(f"[...{lines}.data[1]]") == raw
        assert page.run(f"{lines}.series[1].stroke()") == f"{colour}4d"
        assert page.run(f"{lines}.series[2].stroke()") == colour
        smooth = page.run(f"[...{lines}.data[2]]")
        radius = 40  # a twentieth of 800 steps
        here = raw[400 - radius : 400 + radius + 1]
        assert smooth[400] == pytest.approx(sum(here) / len(here))
        assert smooth[0] == pytest.approx(sum(raw[: radius + 1]) / (radius + 1))
        assert page.page.locator("#weights .legend").inner_text() == legend
        page.press("smooth", "off")
        assert page.run(f"{lines}.series.length") == 3


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize(("tasks", "runs"), [(32, 1), pytest.param(3, 8, marks=pytest.mark.slow)])
def test_a_legend_is_smaller_than_its_plot(
    chromium: Browser, tmp_path: Path, width: int, tasks: int, runs: int
) -> None:
    """With 32 tasks or 8 runs too; what does not fit is scrolled to, inside the page's width."""
    with open_page(chromium, page_of(tmp_path, 1000, tasks, runs), width) as page:
        heights = page.run("CHARTS.map((c) => [c.legend.clientHeight, c.holder.clientHeight])")
        assert all(legend < 0.65 * plot for legend, plot in heights), heights
        assert page.run("document.documentElement.scrollWidth") == width


def test_words(chromium: Browser, tmp_path: Path) -> None:
    """z, saturated and the even share are explained where they stand."""
    with open_page(chromium, page_of(tmp_path, 1000, 4)) as page:
        assert "z is the shared representation" in page.text("#gradients .note")
        assert "an even share is 25.0\xa0%" in page.text("#gradients figcaption")
        assert "Saturated is the share of training elements" in page.text("#outcome .note")
        page.press("shares", "lines")
        names = page.page.locator("#gradients .legend button").all_inner_texts()
        assert names[-1].split() == ["even", "share", "25.0", "%"]
        assert page.run("""CHARTS.find((c) => c.kind === 'shares').plot.data.at(-1)
            .find((value) => value !== null && value !== undefined)""") == pytest.approx(0.25)


@contextmanager
def origin_page(chromium: Browser, tmp_path: Path, origin: Line, first: int) -> Iterator[OpenPage]:
    """The page of a run with an origin, whose events begin after so many epochs."""
    begins = ("run.started", "run.finished", "alarm")
    events = [
        e | ({"origin": origin} if e["event"] == "run.started" else {})
        for e in long_run(2000, 2)
        if e["event"] in begins or e.get("step", 0) > first * EPOCH
    ]
    store, file = DirectoryStore(tmp_path), tmp_path / "page.html"
    spec = spec_of(2000, 2) | {"label": "<b>again</b>", "notes": "why\nnot"}
    store_events(store, "long/b", events, spec)
    file.write_text(report([(store, "long/b")]))
    with open_page(chromium, file) as page:
        yield page


def test_what_a_run_goes_on_with(chromium: Browser, tmp_path: Path) -> None:
    """An extended run names the other; its charts begin where it does."""
    with origin_page(chromium, tmp_path, EXTENDS, 2) as page:
        told = page.text("#origin")
        assert "Goes on with run long/a after epoch 2, step 1,000" in told
        assert "Changed: $.train.epochs: 2 → 4" in told
        assert "Checkpoint 0123456789ab." in told
        assert set(page.run("CHARTS.map(({ plot }) => plot.scales.x.min)")) == {2}
        assert page.run("HEATMAPS.map((h) => h.columns)") == [[2, 4]]
        assert page.text("header .lead b") == "<b>again</b>"
        assert page.text("header .written") == "why\nnot"
        events = [" ".join(row) for row in page.cells("#history .events")]
        assert any("goes on with run long/a" in row for row in events)
        page.run("zoomTo([1.5, 2.5])")
        assert page.run("settings.zoom") == [2, 3]


def test_what_a_run_begins_with(chromium: Browser, tmp_path: Path) -> None:
    """One that began with another's network says so, and has charts from its first step on."""
    begins = ORIGIN | {"kind": "start_from", "averaged": True}
    with origin_page(chromium, tmp_path, begins, 0) as page:
        assert "Began with the averaged network of run long/a at step 1,000" in page.text("#origin")
        assert page.run("CHARTS[0].plot.scales.x.min") == 0
