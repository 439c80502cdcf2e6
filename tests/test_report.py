"""The report: what a browser shows of a run is what its history says, whatever became of it."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser

from job.document import seal
from job.history import read_history
from job.report import MARK, report
from job.report_columns import Columns
from job.report_data import gather
from job.report_stored import store_report
from job.store import Bytes, StoreError
from job.store_directory import DirectoryStore
from job.units import loss_unit
from tests.browser import browser, seen
from tests.long_run import SPIKE, long_run, spec_of, store_events
from tests.nursery import Nursery
from tests.runs import Run
from tests.small import STEPS, write

Line = dict[str, Any]
RUN = "small/r"
GATES = [
    {"task": "kind", "drop": 0.9, "by_epoch": 2},
    {"task": "pair", "skill": -9.0, "by_epoch": 3},
]

UNITS = {"kind": "nats", "level": "€²"}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for this file."""
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def trained(warm: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that a process has trained, with a gate that fails and one that passes."""
    folder = tmp_path_factory.mktemp("trained")
    run = Run(warm, write(folder, {"gates": GATES}), str(folder / "store"))
    process = run.start()
    assert process.wait() == 6, process.err
    return run


def data_of(page: str) -> Line:
    """What is inside a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found is not None
    data: Line = json.loads(found[1])
    del data["made"]
    return data


def number(text: str) -> float:
    """As it is shown."""
    return float(text.replace("−", "-").removesuffix("\xa0%"))


def shown(value: float) -> float:
    """A number as it is to be shown."""
    return float(f"{value:.4g}")


# --- what the page says ---------------------------------------------------------------------------


def test_a_run_leaves_its_report(trained: Run, nursery: Nursery, tmp_path: Path) -> None:
    """The page in the store is what `deploy.report` makes of the run's folder, elsewhere."""
    left = trained.store.get(f"{RUN}/report.html").data.decode()
    file = tmp_path / "page.html"
    made = nursery.start(Path(trained.url) / RUN, "-o", file, program="deploy.report")
    assert made.wait() == 0, made.err
    assert MARK in left[:1000]
    assert data_of(file.read_text()) == data_of(left)
    assert len(left.encode()) < 3e6


def test_numbers_are_those_of_the_history(trained: Run, chromium: Browser) -> None:
    """Gates, the table of tasks, and values beside the curves; no complaint, no request."""
    history = trained.history()
    last = [e for e in history if e["event"] == "epoch"][-1]
    facts = history[0]["tasks"]
    with seen(chromium, Path(trained.url) / RUN / "report.html") as page:
        for row, gate in zip(page.cells("#gates"), history[-1]["gates"], strict=True):
            assert row[0] == gate["gate"]
            assert number(row[1].split()[0].split("\xa0")[0]) == pytest.approx(
                100 * gate["measured"], abs=0.051
            )
            assert row[1].endswith("passed" if gate["passed"] else "failed")
        for row, (name, task) in zip(page.cells("#outcome"), last["tasks"].items(), strict=True):
            assert row[0].split()[0] == name
            assert number(row[1]) == shown(task["train_loss_original"])
            assert number(row[5]) == shown(task["val_loss_original"])
            assert number(row[8]) == shown(task["weight"])
            for column, field in {3: "skill", 4: "drop", 6: "val_skill", 7: "grad_share"}.items():
                assert number(row[column]) == pytest.approx(100 * task[field], abs=0.051)
            card = page.page.locator("#loss .card", has_text=f"{name}: ")
            values = [float(value.inner_text()) for value in card.locator(".legend b").all()]
            assert values[1:4] == [
                shown(task["train_loss_original"]),
                shown(task["val_loss_original"]),
                shown(facts[name]["baseline_constant"]),
            ]
            unit = UNITS.get(name)
            assert card.locator("figcaption small").inner_text() == (
                f"loss in {unit}" if unit else "loss"
            )
        assert "failed 1 of 2 gates" in page.text(".verdict")


@pytest.mark.parametrize(
    ("kind", "unit", "expected"),
    [
        ("huber", "bars", "bars"),
        ("mae", "", ""),
        ("mse", "bars", "bars²"),
        ("mse", "USD/h", "(USD/h)²"),
        ("mse", "", ""),
        ("cross_entropy", "classes", "nats"),
    ],
)
def test_the_unit_of_a_loss(kind: str, unit: str, expected: str) -> None:
    """It is the target's only where the loss is a distance."""
    assert loss_unit(kind, unit) == expected


def test_an_older_record_has_its_units(trained: Run, tmp_path: Path) -> None:
    """What it does not tell of a loss's unit, the spec does; without one none is shown."""
    events = plain(trained)
    for task in events[0]["tasks"].values():
        del task["loss_unit"]
    spec = json.loads(trained.store.get(f"{RUN}/spec.json").data)
    store = DirectoryStore(tmp_path)
    for run, known, expected in (("small/x", spec, "€²"), ("small/y", {}, "")):
        store_events(store, run, events, known)
        assert gather(store, run, 1000)["tasks"]["level"]["loss_unit"] == expected


def test_curves_are_those_of_the_history(trained: Run) -> None:
    """Every step's and every epoch's value of a short run is there as it was recorded."""
    told = gather(trained.store, RUN, 10**6)
    history = trained.history()
    steps = [e for e in history if e["event"] == "step"]
    epochs = [e for e in history if e["event"] == "epoch"]
    assert (told["steps"]["width"], told["steps"]["last"]) == (1, len(steps))
    for name in history[0]["tasks"]:
        for field, values in told["steps"]["tasks"][name].items():
            assert values == {"mean": [e["tasks"][name][field] for e in steps]}
        for field, values in told["epochs"]["tasks"][name].items():
            assert values == {"mean": [e["tasks"][name][field] for e in epochs]}
    for (a, b), row in zip(told["cosines"]["pairs"], told["cosines"]["values"], strict=True):
        assert row == [e["tasks"][a]["cosines"][b] for e in epochs]


def test_cost_is_that_of_the_pods(trained: Run, chromium: Browser, tmp_path: Path) -> None:
    """Of a rented run the book's pods are told, hours times price; intents that failed are not."""
    store = DirectoryStore(tmp_path)
    store_events(store, "small/x", plain(trained), {})
    pod = {"gpu": "RTX 4090", "cloud": "SECURE", "intended": "2026-11-23T06:00:00+00:00"}
    first = {"pod": "a", "cost": 0.6, "created": "2026-11-23T06:30:00+00:00"}
    ended = {"ended": "2026-11-23T08:00:00+00:00"}
    attempts = [pod | first | ended, pod | ended, pod | {"pod": "b", "cost": 1.0} | ended]
    store.put("small/x/pods.json", seal({"attempts": attempts}))
    pods = gather(store, "small/x", 1000)["pods"]
    assert [(p["hours"], p["usd"]) for p in pods] == [(1.5, pytest.approx(0.9)), (2.0, 2.0)]
    file = tmp_path / "page.html"
    file.write_text(report([(store, "small/x")]))
    with seen(chromium, file) as page:
        assert ["cost", "2.90\xa0USD"] in page.cells("#facts")
        assert "RTX 4090, secure: 90.0\xa0min at 0.6 USD/h" in page.text("#facts")


def test_everything_can_be_switched(trained: Run, chromium: Browser) -> None:
    """Log and linear, steps and epochs, stacked and lines, each curve, and the theme."""
    with seen(chromium, Path(trained.url) / RUN / "report.html") as page:
        chart = "CHARTS[0].plot"
        assert page.run(f"{chart}.scales.y.distr") == 1
        page.press("scale", "log")
        assert page.run(f"{chart}.scales.y.distr") == 3
        assert page.run(f"{chart}.scales.x.max") == 3
        page.press("axis", "steps")
        assert page.run(f"{chart}.scales.x.max") == 3 * STEPS
        drawn = page.run(f"{chart}.series.length")
        page.page.locator("#loss .legend button").first.click()
        assert page.run(f"{chart}.series.length") == drawn - 1
        assert (
            page.page.locator("#loss .legend button").first.get_attribute("aria-pressed") == "false"
        )
        shares = "CHARTS.find((chart) => chart.kind === 'shares').plot"
        assert page.run(f"{shares}.bands.length") == 3
        page.press("shares", "lines")
        assert page.run(f"{shares}.bands?.length ?? 0") == 0
        light = page.run("getComputedStyle(document.body).backgroundColor")
        page.press("theme", "dark")
        assert page.run("getComputedStyle(document.body).backgroundColor") != light


def test_values_are_read_by_pointer_and_by_keys(trained: Run, chromium: Browser) -> None:
    """Of a place in a chart every curve's value is told; keys move it, on the heat map too."""
    first = next(e for e in trained.history() if e["event"] == "epoch")
    loss = next(iter(first["tasks"].values()))["train_loss_original"]
    with seen(chromium, Path(trained.url) / RUN / "report.html") as page:
        card = page.page.locator("#loss .card").first
        card.locator(".plot").focus()
        page.page.keyboard.press("Home")
        for _ in range(STEPS - 1):
            page.page.keyboard.press("ArrowRight")
        assert card.locator(".place").inner_text() == f"epoch 1.0, step {STEPS}"
        assert float(card.locator(".legend b").nth(1).inner_text()) == shown(loss)
        box = card.locator(".u-over").bounding_box()
        assert box is not None
        page.page.mouse.move(box["x"] + box["width"] * 0.999, box["y"] + 20)
        assert f"step {3 * STEPS}" in card.locator(".place").inner_text()
        page.page.locator(".heat canvas").focus()
        page.page.keyboard.press("ArrowDown")
        assert page.text(".heat .place").startswith("kind × level, epoch 1: ")


@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits_phones_and_paper(trained: Run, chromium: Browser, width: int) -> None:
    """Nothing is wider than the window, in either theme; printed, it is light and unfolded."""
    with seen(chromium, Path(trained.url) / RUN / "report.html", width, "dark") as page:
        assert page.run("document.documentElement.scrollWidth") == width
        assert page.run("document.documentElement.dataset.theme") == "dark"
        page.run("dispatchEvent(new Event('beforeprint'))")
        assert page.run("document.documentElement.dataset.theme") == "light"
        assert page.run("document.querySelector('details').open")
        page.run("dispatchEvent(new Event('afterprint'))")
        assert page.run("document.documentElement.dataset.theme") == "dark"


def test_several_runs_lie_over_one_another(trained: Run, chromium: Browser, tmp_path: Path) -> None:
    """Verdicts first, then where the specs differ, then both runs' curves in each chart."""
    spec = json.loads(trained.store.get(f"{RUN}/spec.json").data)
    spec["seed"], spec["train"]["batch_size"] = 7, 4
    other = DirectoryStore(tmp_path / "other")
    store_events(other, "small/o", plain(trained), spec)
    file = tmp_path / "two.html"
    file.write_text(report([(trained.store, RUN), (other, "small/o")]))
    with seen(chromium, file) as page:
        ids = page.run("[...document.querySelectorAll('section')].map((each) => each.id)")
        assert ids[:3] == ["gates", "differences", "outcome"]
        assert page.cells("#differences") == [["seed", "0", "7"], ["train.batch_size", "8", "4"]]
        assert page.page.locator(".verdicts li").count() == 2
        labels = page.page.locator("#loss .card").first.locator(".legend button").all_inner_texts()
        assert {label.split()[0] for label in labels} == {"r", "o", "best"}


# --- whatever became of the run -------------------------------------------------------------------


def plain(run: Run) -> list[Line]:
    """Its events without envelope."""
    envelope = ("ts", "schema", "run_id", "seq")
    events = [e for e in read_history(run.store, run.key) if e["event"] != "alarm"]
    return [{k: v for k, v in event.items() if k not in envelope} for event in events]


def unfinished(events: list[Line]) -> list[Line]:
    return [e for e in events if e["event"] in ("run.started", "step")][:4]


def one_epoch(events: list[Line]) -> list[Line]:
    last = next(i for i, e in enumerate(events) if e["event"] == "epoch")
    return events[: last + 1]


def not_finite(events: list[Line]) -> list[Line]:
    """As a step is recorded whose loss is not finite, and the run's end after it."""
    steps = [e for e in events if e["event"] == "step"]
    for event in (steps[-1], [e for e in events if e["event"] == "epoch"][-1]):
        task = event["tasks"]["level"]
        task |= {f"{k}_nonfinite": True for k in task if k != "cosines"}
        task |= {k: None for k, v in task.items() if isinstance(v, float)}
    events[-1] |= {"reason": "failed", "exit_code": 1, "error": "the loss of level is not finite"}
    return events


def superseded(events: list[Line]) -> list[Line]:
    """Interrupted after its second step, which is taken again."""
    start, *rest = events
    two = [e for e in rest if e["event"] == "step"][:2]
    again = {**start, "resumed_from": 1}
    gone = {"event": "superseded", "step": 1, "from_seq": 3, "to_seq": 3}
    return [start, *two, again, gone, *(e for e in rest if e != two[0])]


def named_in_html(events: list[Line]) -> list[Line]:
    text = json.dumps(events).replace('"level"', '"</script><script>hacked=1</script><b>x"')
    found: list[Line] = json.loads(text)
    alarm = {
        "event": "alarm",
        "kind": "<i>k</i>",
        "message": "<img src=x onerror=hacked=1>",
        "step": 1,
    }
    return [found[0], alarm, *found[1:]]


def without_cosines(events: list[Line]) -> list[Line]:
    """As an older version recorded epochs."""
    for event in events:
        for task in event.get("tasks", {}).values():
            task.pop("cosines", None)
            task.pop("saturated", None)
    return events


CASES: dict[str, tuple[Callable[[list[Line]], list[Line]], str]] = {
    "nothing": (lambda events: [], "not finished"),
    "unfinished": (unfinished, "kind: no epoch was finished"),
    "one epoch": (one_epoch, "after epoch 1"),
    "not finite": (not_finite, "level: not finite at step 15"),
    "superseded": (superseded, "1 resume, 1 superseded step"),
    "HTML": (named_in_html, "</script><script>hacked=1</script><b>x: "),
    "no cosines": (without_cosines, "not recorded by this run"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_run_has_a_page(trained: Run, chromium: Browser, tmp_path: Path, case: str) -> None:
    """Also one that told nothing, broke off, went back or broke down, or has HTML for names."""
    change, expected = CASES[case]
    store = DirectoryStore(tmp_path)
    spec = json.loads(trained.store.get(f"{RUN}/spec.json").data)
    store_events(store, "small/x", change(copy.deepcopy(plain(trained))), spec)
    file = tmp_path / "page.html"
    file.write_text(report([(store, "small/x")]))
    with seen(chromium, file) as page:
        assert expected in page.run("document.body.innerText")
        assert page.run("typeof hacked") == "undefined"
        page.press("theme", "dark")
        page.press("scale", "log") if page.page.locator("#scale").count() else None


# --- long runs ------------------------------------------------------------------------------------


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_no_spike_is_lost(values: list[float | None], most: int) -> None:
    """Every column has the least and the greatest of its values, whichever way they come."""
    for rows in (list(enumerate(values, 1)), list(enumerate(values, 1))[::-1]):
        columns = Columns(len(values), most)
        for position, value in rows:
            columns.add(position, [value])
        (series,) = columns.series()
        assert columns.count <= most
        for i in range(columns.count):
            here = [v for v in values[i * columns.width : (i + 1) * columns.width] if v is not None]
            low, high = (series.get(name, series["mean"])[i] for name in ("low", "high"))
            assert (low, high) == ((min(here), max(here)) if here else (None, None))


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    """32 tasks, more steps than columns: under 10 MB, the spike there, what was undone is not."""
    store, steps = DirectoryStore(tmp_path), 2400
    store_events(store, "long/r", long_run(steps, 32), spec_of(steps, 32))
    page = report([(store, "long/r")])
    assert len(page) < 10e6
    (run,) = data_of(page)["runs"]
    history = [e for e in read_history(store, "long/r") if e["event"] == "step"]
    width = run["steps"]["width"]
    assert width > 1
    for name in ("task_00", "task_31"):
        losses = [e["tasks"][name]["loss_original"] for e in history]
        parts = [losses[i : i + width] for i in range(0, steps, width)]
        told = run["steps"]["tasks"][name]["loss_original"]
        assert told["low"] == [min(part) for part in parts]
        assert told["high"] == [max(part) for part in parts]
    assert max(run["steps"]["tasks"]["task_00"]["loss_original"]["high"]) == SPIKE
    assert run["marks"]["superseded"] == [[1800, 1850]]
    assert run["marks"]["resumes"] == [1800]


# --- writing it -----------------------------------------------------------------------------------


class Failing(DirectoryStore):
    """A store that takes no report, or lets it wait."""

    seconds = 0.0

    def put(self, key: str, data: Bytes) -> str:
        if key.endswith("report.html"):
            time.sleep(self.seconds)
            raise StoreError("no room")
        return super().put(key, data)


def test_a_report_that_cannot_be_stored_is_told(tmp_path: Path) -> None:
    """Whether the store refuses it, has no such run, or does not answer in time."""
    store = Failing(tmp_path)
    store_events(store, "long/r", long_run(5, 2), spec_of(500, 2))
    assert store_report(store, "long/r") == "StoreError: no room"
    assert "has no run long/q" in store_report(store, "long/q")
    store.seconds, begun = 3.0, time.monotonic()
    assert store_report(store, "long/r", seconds=0.2) == "it took longer than 0.2 s"
    assert "a signal" in store_report(store, "long/r", stopping=lambda: True)
    assert time.monotonic() - begun < 2


def test_a_run_ends_without_its_report(nursery: Nursery, tmp_path: Path) -> None:
    """Where the page cannot be stored, code and result are as ever, and one line tells why."""
    run = Run(nursery, write(tmp_path, {"train.epochs": 1}), str(tmp_path / "store"))
    in_the_way = tmp_path / "store" / RUN / "report.html"
    (in_the_way / "x").mkdir(parents=True)
    process = run.start()
    assert process.wait() == 0, process.err
    (line,) = process.err.splitlines()
    assert line.startswith("run r: no report.html, as ")
    result = run.result()
    assert result is not None
    assert result["reason"] == "succeeded"


def cli(nursery: Nursery, *arguments: str | Path) -> tuple[int, str]:
    """`deploy.report`: its code, and what it said on stderr."""
    process = nursery.start(*arguments, program="deploy.report")
    return process.wait(), process.err


def test_only_a_report_is_replaced(trained: Run, nursery: Nursery, tmp_path: Path) -> None:
    """Of `-o`: a report is replaced whole, another file or a folder never."""
    file = tmp_path / "page.html"
    for _ in range(2):
        assert cli(nursery, "r", "--store", trained.url, "-o", file)[0] == 0
    notes = tmp_path / "notes.html"
    notes.write_text("mine")
    code, said = cli(nursery, "r", "--store", trained.url, "-o", notes)
    assert (code, notes.read_text()) == (2, "mine")
    assert "only a report is replaced" in said
    assert cli(nursery, "r", "--store", trained.url, "-o", tmp_path)[0] == 2
    code, said = cli(nursery, "q", "--store", trained.url, "-o", file)
    assert code == 102
    assert "holds no run q" in said
    assert [path.name for path in tmp_path.glob("*page*")] == ["page.html"]
