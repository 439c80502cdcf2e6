"""The report's plots of predictions, and of the test split: what the events say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator

from job.report.page import report
from job.store.directory import DirectoryStore
from tests.support.browser import browser, open_page
from tests.support.long_run import store_events
from tests.support.runs import Run
from tests.support.tiny_job import RISING, SMALL, write
from tests.support.warm_process import Nursery

Line = dict[str, Any]
RUN = "small/r"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for this file."""
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def trained(warm: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a test split that a process has trained."""
    folder = tmp_path_factory.mktemp("trained")
    edits = {"tasks": [*SMALL["tasks"], RISING], "data.test": 0.3}
    run = Run(warm, write(folder, edits), str(folder / "store"))
    process = run.start()
    assert process.wait() == 0, process.err
    return run


def of(run: Run, kind: str) -> list[Line]:
    return [event for event in run.history() if event["event"] == kind]


def cells(table: Locator) -> list[list[str]]:
    """The cells of a table's body, without the rows' heads."""
    return [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]


def displayed(value: float) -> float:
    """A number with the digits that the page shows."""
    return float(f"{value:.4g}")


@pytest.mark.slow
def test_plots_hold_what_the_events_hold(trained: Run, chromium: Browser) -> None:
    """Each task has its tables, curves and points, of both splits, each where its numbers say."""
    events = of(trained, "predictions")
    assert len(events) == 10
    with open_page(chromium, Path(trained.url) / RUN / "report.html") as page:
        shown = page.page.locator("#predictions .of-split")
        assert shown.count() == len(events)
        for event in events:
            block = page.page.locator(
                f'.of-split[data-task="{event["task"]}"][data-split="{event["split"]}"]'
            )
            assert f"{event['split']} split, {event['labels']} labels" in block.inner_text()
            tables = block.locator(".confusion").all()
            for table, confusion in zip(tables, event["confusion"], strict=True):
                assert cells(table) == [[str(n) for n in row] for row in confusion["counts"]]
            figures = block.locator("svg").all()
            if event["curves"]:
                assert len(figures) == 2
                points = sum(len(curve["thresholds"]) for curve in event["curves"])
                for figure in figures:
                    assert figure.locator("circle").count() == points
                    assert figure.locator(".curve").count() == len(event["curves"])
                assert_placed(figures[0], event["curves"][0])
            else:
                assert len(figures) == 2
                sample = event["sample"]
                for figure in figures:
                    assert figure.locator("circle").count() == len(sample["true"])
                assert_rising(figures[0], sample["true"], sample["predicted"])
                errors = [p - t for p, t in zip(sample["predicted"], sample["true"], strict=True)]
                assert_rising(figures[1], sample["predicted"], errors)


def places(figure: Locator) -> list[tuple[float, float]]:
    """Where the points are, to the right and up."""
    script = """(svg) => [...svg.querySelectorAll("circle")].map(
        (circle) => [+circle.getAttribute("cx"), -circle.getAttribute("cy")])"""
    return [(x, y) for x, y in figure.evaluate(script)]


def assert_placed(figure: Locator, curve: Line) -> None:
    """The points of a ROC curve are at (false / zeros, true / ones), on the axes from 0 to 1."""
    found = places(figure)[: len(curve["true"])]
    (left, bottom), (right, top) = (54, -204), (290, -8)  # of −0.02 and of 1.02
    for (x, y), true, false in zip(found, curve["true"], curve["false"], strict=True):
        across, up = (x - left) / (right - left), (y - bottom) / (top - bottom)
        assert across * 1.04 - 0.02 == pytest.approx(false / curve["zeros"], abs=1e-3)
        assert up * 1.04 - 0.02 == pytest.approx(true / curve["ones"], abs=1e-3)


def assert_rising(figure: Locator, xs: list[float], ys: list[float]) -> None:
    """The points lie at these numbers, in one scale a direction."""
    for drawn, numbers in zip(zip(*places(figure), strict=True), (xs, ys), strict=True):
        slope = (max(drawn) - min(drawn)) / (max(numbers) - min(numbers))
        start = min(drawn) - slope * min(numbers)
        assert list(drawn) == pytest.approx([start + slope * n for n in numbers], abs=0.11)


@pytest.mark.slow
def test_the_test_split_is_shown(trained: Run, chromium: Browser) -> None:
    """Its losses and skills have a table, its metrics a column, as the event and the result say."""
    (test,) = of(trained, "test")
    result = trained.result()
    assert result is not None
    for name, task in result["test"].items():
        assert task.items() <= test["tasks"][name].items()
        assert {"loss_original", "trivial_loss_original", "metrics"} <= task.keys()
    assert result["test"].keys() == test["tasks"].keys()
    (finished,) = of(trained, "run.finished")
    assert finished["test"] == test["tasks"]
    with open_page(chromium, Path(trained.url) / RUN / "report.html") as page:
        for row, (name, task) in zip(page.cells("#test"), test["tasks"].items(), strict=True):
            assert row[0].split()[0] == name
            assert float(row[1]) == displayed(task["loss_original"])
            assert float(row[2]) == displayed(task["trivial_loss_original"])
            skill = f"{100 * task['skill']:.1f}".replace("-", "−") if "skill" in task else "–"
            assert row[3].startswith(skill)
        wanted = [value for task in test["tasks"].values() for value in task["metrics"].values()]
        found = [row[4].replace("−", "-") for row in page.cells("#metrics")]
        assert [float(text) for text in found] == [displayed(value) for value in wanted]


@pytest.mark.slow
def test_an_older_run_has_its_report(trained: Run, chromium: Browser, tmp_path: Path) -> None:
    """A record without these events gives the page without their sections."""
    store = DirectoryStore(tmp_path)
    events = [e for e in trained.history() if e["event"] not in ("predictions", "test")]
    store_events(store, "small/x", [{**e, "seq": i} for i, e in enumerate(events, 1)], {})
    file = tmp_path / "page.html"
    file.write_text(report([(store, "small/x")]))
    with open_page(chromium, file) as page:
        for section in ("#predictions", "#test"):
            assert page.page.locator(section).count() == 0
        assert len(page.cells("#metrics")[0]) == 4
    both = tmp_path / "both.html"
    both.write_text(report([(store, "small/x"), (trained.store, RUN)]))
    with open_page(chromium, both) as page:
        assert page.page.locator("#predictions .of-split").count() == 10
        assert len(page.cells("#metrics")[0]) == 8
