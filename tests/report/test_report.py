"""The report: a browser shows what a run's history says, however the run ended."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser

from deploy.exits import CommandError
from deploy.runs.locate import locate
from job.record.document import seal
from job.record.history import read_history
from job.record.pods import Attempt, PodsRecord
from job.report.downsample import Downsampler
from job.report.gather import gather
from job.report.page import MARK, report
from job.report.save import store_report
from job.report.titles import titles, typeset
from job.show.summary_tables import worth
from job.spec.losses import loss_unit
from job.store import StoreError
from job.store.base import Bytes
from job.store.directory import DirectoryStore
from tests.support.browser import browser, open_page
from tests.support.long_run import SPIKE, long_run, spec_of, store_events
from tests.support.runs import Run
from tests.support.tiny_job import STEPS, write
from tests.support.warm_process import Nursery

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
    """The data inside a page."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert match is not None
    data: Line = json.loads(match[1])
    del data["made"]
    return data


def number(text: str) -> float:
    """The number that a text shows."""
    return float(text.replace("−", "-").removesuffix("\xa0%"))


def displayed(value: float) -> float:
    """A number with the digits that the page shows."""
    return float(f"{value:.4g}")


# --- what the page says ---------------------------------------------------------------------------


def test_a_run_leaves_its_report(trained: Run, nursery: Nursery, tmp_path: Path) -> None:
    """The page in the store is the one that `deploy.report` makes of the run's folder."""
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
    with open_page(chromium, Path(trained.url) / RUN / "report.html") as page:
        for row, gate in zip(page.cells("#gates"), history[-1]["gates"], strict=True):
            assert row[0] == gate["gate"]
            assert number(row[1].split()[0].split("\xa0")[0]) == pytest.approx(
                100 * gate["measured"], abs=0.051
            )
            assert row[1].endswith("passed" if gate["passed"] else "failed")
            for name, said in (("error", " ± {}\xa0%"), ("trivial", " ({}\xa0% trivial)")):
                share = f"{100 * gate.get(name, 0):.1f}".replace("-", "−")
                assert (said.format(share) in row[1]) == (name in gate)
        for row, (name, task) in zip(page.cells("#outcome"), last["tasks"].items(), strict=True):
            assert row[0].split()[0] == name
            assert number(row[1]) == displayed(task["train_loss_original"])
            assert number(row[2]) == displayed(facts[name]["trivial"]["train"])
            assert number(row[7]) == displayed(task["val_loss_original"])
            assert number(row[9]) == displayed(task["weight"])
            for column, field in {5: "drop", 6: "drop_trivial", 8: "grad_share"}.items():
                assert number(row[column]) == pytest.approx(100 * task[field], abs=0.051)
            for column, field in {3: "skill", 4: "val_skill"}.items():
                told = [number(each) for each in row[column].split(" ± ") if each != "–"]
                known = [task[each] for each in (field, f"{field}_error") if each in task]
                assert told == pytest.approx([100 * each for each in known], abs=0.051)
            card = page.page.locator("#loss .card", has_text=f"{name}: ")
            values = [float(value.inner_text()) for value in card.locator(".legend b").all()]
            assert values[1:4] == [
                displayed(task["train_loss_original"]),
                displayed(task["val_loss_original"]),
                displayed(facts[name]["baseline_constant"]),
            ]
            unit = UNITS.get(name)
            assert card.locator("figcaption small").inner_text() == (
                f"loss in {unit}" if unit else "loss"
            )
        metrics = [
            (name, metric.replace("_", " "), task["metrics"][metric], value)
            for name, task in last["tasks"].items()
            for metric, value in task["val_metrics"].items()
        ]
        for row, (name, metric, train, validation) in zip(
            page.cells("#metrics"), metrics, strict=True
        ):
            assert row[0] == name
            assert row[1].startswith(metric)
            assert [number(cell) for cell in row[2:]] == [displayed(train), displayed(validation)]
        assert "failed 1 of 2 gates" in page.text(".verdict")
        lines = [typeset(text.plain) for text in worth(history[-1])]
        assert page.page.locator(".worth").all_inner_texts() == lines
        assert len(lines) == 2  # no task beats the trivial prediction, and one cannot be told


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
    """It is the target's unit only if the loss is a distance."""
    assert loss_unit(kind, unit) == expected


def test_an_older_record_has_its_units(trained: Run, tmp_path: Path) -> None:
    """A record without units of losses takes them from the spec; without a spec there are none."""
    events = plain(trained)
    for task in events[0]["tasks"].values():
        del task["loss_unit"]
    spec = json.loads(trained.store.get(f"{RUN}/spec.json").data)
    store = DirectoryStore(tmp_path)
    for run, known, expected in (("small/x", spec, "€²"), ("small/y", {}, "")):
        store_events(store, run, events, known)
        assert gather(store, run, 1000)["tasks"]["level"]["loss_unit"] == expected


def test_curves_are_those_of_the_history(trained: Run) -> None:
    """Of a short run, every value of every step and epoch is there as it was recorded."""
    data = gather(trained.store, RUN, 10**6)
    history = trained.history()
    steps = [e for e in history if e["event"] == "step"]
    epochs = [e for e in history if e["event"] == "epoch"]
    assert (data["steps"]["width"], data["steps"]["last"]) == (1, len(steps))
    for name in history[0]["tasks"]:
        for field, values in data["steps"]["tasks"][name].items():
            assert values == {"mean": [e["tasks"][name][field] for e in steps]}
        for field, values in data["epochs"]["tasks"][name].items():
            assert values == {"mean": [e["tasks"][name][field] for e in epochs]}
    for (a, b), row in zip(data["cosines"]["pairs"], data["cosines"]["values"], strict=True):
        assert row == [e["tasks"][a]["cosines"][b] for e in epochs]


def test_cost_is_that_of_the_pods(trained: Run, chromium: Browser, tmp_path: Path) -> None:
    """The cost is hours times price of the recorded pods; attempts without a pod cost nothing."""
    store = DirectoryStore(tmp_path)
    store_events(store, "small/x", plain(trained), {})
    intended, created, ended = (
        datetime(2026, 11, 23, hour, minute, tzinfo=UTC)
        for hour, minute in ((6, 0), (6, 30), (8, 0))
    )
    intent = Attempt(
        number=1, pod_name="evengrad-small-x-1", gpu="RTX 4090", cloud="SECURE",
        intended=intended, ended=ended,
    )  # fmt: skip
    first = intent.model_copy(update={"pod": "a", "cost": 0.6, "created": created})
    second = intent.model_copy(update={"pod": "b", "cost": 1.0})
    record = PodsRecord(
        name="small", run_id="x", store=store.url, spec_hash="", image="i", deadline=ended,
        attempts=(first, intent, second),
    )  # fmt: skip
    store.put("small/x/pods.json", seal(record.model_dump(mode="json")))
    pods = gather(store, "small/x", 1000)["pods"]
    assert [(p["hours"], p["usd"]) for p in pods] == [(1.5, pytest.approx(0.9)), (2.0, 2.0)]
    file = tmp_path / "page.html"
    file.write_text(report([(store, "small/x")]))
    with open_page(chromium, file) as page:
        assert ["cost", "2.90\xa0USD"] in page.cells("#facts")
        assert "RTX 4090, secure: 90.0\xa0min at 0.6 USD/h" in page.text("#facts")


def test_a_pod_whose_end_is_not_recorded(trained: Run, tmp_path: Path) -> None:
    """It costs up to the end of its run, however much later the report is written."""
    store = DirectoryStore(tmp_path)
    store_events(store, "small/x", plain(trained), {})
    end = datetime.fromisoformat(read_history(store, "small/x")[-1]["ts"])
    attempt = Attempt(
        number=1, pod_name="evengrad-small-x-1", gpu="L4", cloud="SECURE", pod="a", cost=0.5,
        intended=end - timedelta(hours=2),
    )  # fmt: skip
    record = PodsRecord(
        name="small", run_id="x", store=store.url, spec_hash="", image="i", deadline=end,
        attempts=(attempt,),
    )  # fmt: skip
    store.put("small/x/pods.json", seal(record.model_dump(mode="json")))
    (pod,) = gather(store, "small/x", 1000)["pods"]
    assert (pod["hours"], pod["usd"]) == (pytest.approx(2.0), pytest.approx(1.0))


DRAWN = """CHARTS.map((chart) => [
    chart.plot.series.slice(1).map((s) => [s.stroke(), s.width, (s.dash ?? []).join(" ")]),
    [...chart.legend.querySelectorAll("svg")].map((svg) => svg.querySelector("path"))
        .map((line) => line && [line.getAttribute("stroke"),
            Number(line.getAttribute("stroke-width")), line.getAttribute("stroke-dasharray")])])"""
"""For each chart its lines, as color, width and dashes, and those of its legend."""
FINGERS = """([[a, b], [c, d]]) => {
    const plot = CHARTS[0].holder, over = CHARTS[0].plot.over.getBoundingClientRect();
    const touch = (kind, pointerId, at) => plot.dispatchEvent(new PointerEvent(kind, {
        pointerId, pointerType: "touch", clientX: over.left + at * over.width }));
    touch("pointerdown", 1, a); touch("pointerdown", 2, b);
    touch("pointermove", 1, c); touch("pointermove", 2, d);
    return new Promise(requestAnimationFrame).then(() => {
        touch("pointerup", 1, c); touch("pointerup", 2, d);
        return settings.zoom;
    });
}"""
"""Two fingers move from [a, b] to [c, d], in shares of the width; returns the zoom."""


def test_everything_can_be_switched(trained: Run, chromium: Browser) -> None:
    """Log and linear, steps and epochs, stacked and lines, each curve, and the theme.

    A legend has its lines' colours, widths and dashes; stacked curves have areas there.
    """
    with open_page(chromium, Path(trained.url) / RUN / "report.html") as page:
        for lines, legend in page.run(DRAWN):
            assert legend in (lines, [None] * len(lines))
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


def test_zoom(trained: Run, chromium: Browser) -> None:
    """Dragging over a chart zooms all charts, the heat map, the keys and the legends.

    The zoom is at least two steps wide; a part without data says so; a button shows all again. What
    was under two fingers stays under them; pinching wider than the run shows all.
    """
    epochs = [e for e in trained.history() if e["event"] == "epoch"]
    with open_page(chromium, Path(trained.url) / RUN / "report.html") as page:
        card = page.page.locator("#loss .card").first
        card.scroll_into_view_if_needed()
        box = card.locator(".u-over").bounding_box()
        assert box is not None
        heat = "HEATMAPS[0].columns"
        assert page.run(heat) == [0, 3]
        assert not card.locator(".all").is_visible()
        page.page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 20)
        page.page.mouse.down()
        page.page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 20, steps=3)
        page.page.mouse.up()
        scales = "CHARTS.map(({ plot }) => [plot.scales.x.min, plot.scales.x.max])"
        for span in [page.run("settings.zoom"), *page.run(scales)]:
            assert span == pytest.approx([1.2, 2.4], abs=0.05)
        assert page.run(heat) == [1, 3]
        card.locator(".plot").focus()
        for key, step in {"Home": 7, "ArrowRight": 8, "End": 12, "ArrowLeft": 11}.items():
            page.page.keyboard.press(key)
            assert card.locator(".place").inner_text().endswith(f"step {step}")
        page.page.keyboard.press("Escape")
        second = next(iter(epochs[1]["tasks"].values()))["train_loss_original"]
        assert float(card.locator(".legend b").nth(1).inner_text()) == displayed(second)
        page.run("zoomTo([1.5, 1.5001])")
        low, high = page.run("settings.zoom")
        assert high - low == pytest.approx(2 / STEPS)
        assert card.locator(".legend b").nth(1).inner_text() == "–"
        card.locator(".legend button").first.click()  # its steps; training's line still crosses
        assert not card.locator(".plot .nothing").is_visible()
        page.run("zoomTo([0, 0.4])")
        assert card.locator(".plot .nothing").is_visible()
        card.locator(".all").click()
        assert page.run("settings.zoom") is None
        assert page.run(heat) == [0, 3]
        assert not card.locator(".plot .nothing").is_visible()
        spread = page.page.evaluate(FINGERS, [[0.4, 0.6], [0.2, 0.8]])
        assert spread == pytest.approx([1.0, 2.0], abs=0.01)
        assert page.page.evaluate(FINGERS, [[0.2, 0.8], [0.45, 0.55]]) is None


def test_values_are_read_by_pointer_and_by_keys(trained: Run, chromium: Browser) -> None:
    """At a place in a chart every curve has its value; keys move the place, on the heat map too."""
    first = next(e for e in trained.history() if e["event"] == "epoch")
    loss = next(iter(first["tasks"].values()))["train_loss_original"]
    with open_page(chromium, Path(trained.url) / RUN / "report.html") as page:
        card = page.page.locator("#loss .card").first
        card.locator(".plot").focus()
        page.page.keyboard.press("Home")
        for _ in range(STEPS - 1):
            page.page.keyboard.press("ArrowRight")
        assert card.locator(".place").inner_text() == f"epoch 1.0, step {STEPS}"
        assert float(card.locator(".legend b").nth(1).inner_text()) == displayed(loss)
        card.scroll_into_view_if_needed()
        box = card.locator(".u-over").bounding_box()
        assert box is not None
        page.page.mouse.move(box["x"] + box["width"] * 0.999, box["y"] + 20)
        assert f"step {3 * STEPS}" in card.locator(".place").inner_text()
        page.page.locator(".heat canvas").focus()
        page.page.keyboard.press("ArrowDown")
        assert page.text(".heat .place").startswith("kind × level, epoch 1: ")


@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits_phones_and_paper(trained: Run, chromium: Browser, width: int) -> None:
    """Nothing is wider than the window, in either theme; printed, it is light and unfolded.

    On paper no heading is alone at a page's end and no hint on zooming is left; afterwards all is
    as it was.
    """
    with open_page(chromium, Path(trained.url) / RUN / "report.html", width, "dark") as page:
        assert page.run("document.documentElement.scrollWidth") == width
        assert page.run("document.documentElement.dataset.theme") == "dark"
        opened = "[...document.querySelectorAll('details')].map((each) => each.open)"
        if width > 1000:
            page.page.locator("summary").first.click()
        before = page.run(opened)
        page.run("dispatchEvent(new Event('beforeprint'))")
        assert page.run("document.documentElement.dataset.theme") == "light"
        assert page.run("document.querySelector('details').open")
        page.run("dispatchEvent(new Event('afterprint'))")
        assert page.run("document.documentElement.dataset.theme") == "dark"
        assert page.run(opened) == before
        page.page.emulate_media(media="print")
        assert not page.page.locator(".hint").is_visible()
        for above in ("h2", ".bar"):
            assert page.run(f"getComputedStyle(document.querySelector('{above}')).breakAfter") == (
                "avoid"
            )


def test_several_runs_lie_over_one_another(trained: Run, chromium: Browser, tmp_path: Path) -> None:
    """Verdicts first, then where the specs differ, then both runs' curves in each chart."""
    spec = json.loads(trained.store.get(f"{RUN}/spec.json").data)
    spec["seed"], spec["train"]["batch_size"] = 7, 4
    spec["resources"] = {"gpus": ["RTX 4090"], "disk_gb": 20}
    first, *rest = spec["tasks"]
    spec["tasks"] = rest
    other = DirectoryStore(tmp_path / "other")
    store_events(other, "small/o", plain(trained), spec)
    file = tmp_path / "two.html"
    file.write_text(report([(trained.store, RUN), (other, "small/o")] * 5))
    with open_page(chromium, file) as page:
        ids = page.run("[...document.querySelectorAll('section')].map((each) => each.id)")
        assert ids[:3] == ["gates", "differences", "outcome"]
        differ = {row[0]: row[1:3] for row in page.cells("#differences")}
        assert differ.items() >= {"seed": ["0", "7"], "train.batch_size": ["8", "4"]}.items()
        assert differ["resources.disk_gb"] == ["–", "20"]
        assert differ[f"tasks[{first['name']}].loss.kind"] == [f'"{first["loss"]["kind"]}"', "–"]
        assert not [where for where in differ if where.startswith("tasks[pair]")]
        cells = "[...document.querySelectorAll('#differences td')]"
        assert page.run(f"Math.min(...{cells}.map((each) => each.clientWidth))") >= 130
        assert page.run(f"Math.max(...{cells}.map((each) => each.clientHeight))") < 100
        assert page.page.locator(".verdicts li").count() == 10
        labels = page.page.locator("#loss .card").first.locator(".legend button").all_inner_texts()
        assert {label.split()[0] for label in labels} == {"r", "o", "best"}


def test_titles_say_what_a_run_is_worth(trained: Run, tmp_path: Path) -> None:
    """As the run itself says, with numbers typeset and names as they are; tasks have their errors
    and the drop of a trivial prediction. A control says that it is one, with its verdict."""
    events = plain(trained)
    sure = {"beats": True, "skill": -0.05, "error": 0.123}
    why = "it has 3 of the 8 samples that are needed"
    worth = {"a-5": sure, "b": {"beats": False, "why": why}}
    events[-1] |= {"worth": worth, "control": True}
    store = DirectoryStore(tmp_path)
    store_events(store, "small/x", events, {})
    told = titles(gather(store, "small/x", 1000))
    assert told["worth"] == [
        "a control: the targets were permuted, so that there is nothing to learn",
        "a control must not beat the trivial prediction, and this one does: a-5 −5.0 ± 12.3\xa0%; "
        "its samples are not independent, or chance did it",
        f"the validation split cannot tell: b: {why}",
    ]
    assert told["verdict"].startswith("a control with permuted targets: failed 1 of 2 gates: ")
    task = [e for e in events if e["event"] == "epoch"][-1]["tasks"]["level"]
    how = {True: "better", False: "worse"}
    skills = [
        f"{abs(100 * task[name]):.1f} ± {100 * task[f'{name}_error']:.1f}\xa0% "
        f"{how[task[name] >= 0]}"
        for name in ("skill", "val_skill")
    ]
    assert told["tasks"]["level"]["note"].startswith(
        f"training {skills[0]} than the trivial prediction, validation {skills[1]}, "
        "a trivial prediction shows a drop of "
    )


def test_an_older_record_has_no_worth(trained: Run, tmp_path: Path) -> None:
    """It has neither errors nor trivial drops, and its page says nothing of them."""
    events = plain(trained)
    later = ("drop_trivial", "skill_error", "skill_low")
    for event in events:
        for task in event.get("tasks", {}).values():
            for name in (*later, *(f"val_{each}" for each in later), "trivial", "unmeasurable"):
                task.pop(name, None)
    del events[-1]["worth"], events[-1]["control"]
    store = DirectoryStore(tmp_path)
    store_events(store, "small/x", events, {})
    told = titles(gather(store, "small/x", 1000))
    assert told["worth"] == []
    assert "±" not in told["tasks"]["level"]["note"]
    assert "drop" not in told["tasks"]["level"]["note"]
    assert told["verdict"].startswith("failed 1 of 2 gates: ")
    assert "NaN" not in report([(store, "small/x")])


# --- however the run ended ------------------------------------------------------------------------


def plain(run: Run) -> list[Line]:
    """A run's events without their envelopes."""
    envelope = ("ts", "schema", "run_id", "seq")
    events = [e for e in read_history(run.store, run.key) if e["event"] != "alarm"]
    return [{k: v for k, v in event.items() if k not in envelope} for event in events]


def unfinished(events: list[Line]) -> list[Line]:
    return [e for e in events if e["event"] in ("run.started", "step")][:4]


def one_epoch(events: list[Line]) -> list[Line]:
    last = next(i for i, e in enumerate(events) if e["event"] == "epoch")
    return events[: last + 1]


def not_finite(events: list[Line]) -> list[Line]:
    """A step whose loss is not finite, as it is recorded, and the end of the run after it."""
    steps = [e for e in events if e["event"] == "step"]
    for event in (steps[-1], [e for e in events if e["event"] == "epoch"][-1]):
        task = event["tasks"]["level"]
        task |= {f"{k}_nonfinite": True for k in task if k != "cosines"}
        task |= {k: None for k, v in task.items() if isinstance(v, float)}
    events[-1] |= {"reason": "failed", "exit_code": 1, "error": "the loss of level is not finite"}
    return events


def superseded(events: list[Line]) -> list[Line]:
    """A run that is interrupted after its second step, and takes it again."""
    start, *rest = events
    two = [e for e in rest if e["event"] == "step"][:2]
    again = {**start, "resumed_from": 1}
    gone = {"event": "superseded", "step": 1, "from_seq": 3, "to_seq": 3}
    return [start, *two, again, gone, *(e for e in rest if e != two[0])]


def named_in_html(events: list[Line]) -> list[Line]:
    """Names, units, devices and alarms with HTML, line breaks and control characters."""
    text = json.dumps(events).replace('"level"', '"</script><script>hacked=1</script><b>x"')
    renamed: list[Line] = json.loads(text)
    setups = zip(renamed[0]["tasks"].values(), events[0]["tasks"].values(), strict=True)
    for new, setup in setups:  # a setup has a field of that name, too
        new["level"] = setup["level"]
    renamed[0]["device"] = "\x1b[2J<script>hacked=1</script>\u202e\n\x00&amp;"
    for task in renamed[0]["tasks"].values():
        task |= {"unit": "<svg onload=hacked=1>", "loss_unit": "<svg onload=hacked=1>"}
    alarm = {
        "event": "alarm",
        "kind": "<i>k</i>",
        "message": "<img src=x onerror=hacked=1>",
        "step": 1,
    }
    return [renamed[0], alarm, *renamed[1:]]


def without_cosines(events: list[Line]) -> list[Line]:
    """Epochs as an older version recorded them."""
    for event in events:
        for task in event.get("tasks", {}).values():
            task.pop("cosines", None)
            task.pop("saturated", None)
    return events


CASES: dict[str, tuple[Callable[[list[Line]], list[Line]], str]] = {
    "nothing": (lambda events: [], "not finished"),
    "unfinished": (unfinished, "pair skill > -900% by epoch 3 (validation)\tnot read yet"),
    "one epoch": (one_epoch, "after epoch 1"),
    "not finite": (not_finite, "level: not finite at step 15"),
    "superseded": (superseded, "1 resume, 1 superseded step"),
    "HTML": (named_in_html, "</script><script>hacked=1</script><b>x: "),
    "no cosines": (without_cosines, "this run's version did not record cosines"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_run_has_a_page(trained: Run, chromium: Browser, tmp_path: Path, case: str) -> None:
    """Also a run without an event, without an end, with a resume or HTML in its names."""
    change, expected = CASES[case]
    store = DirectoryStore(tmp_path)
    spec = json.loads(trained.store.get(f"{RUN}/spec.json").data)
    store_events(store, "small/x", change(copy.deepcopy(plain(trained))), spec)
    file = tmp_path / "page.html"
    file.write_text(report([(store, "small/x")]))
    with open_page(chromium, file) as page:
        assert expected in page.run("document.body.innerText")
        assert page.run("typeof hacked") == "undefined"
        assert page.page.locator("main script, main img, main svg[onload]").count() == 0
        page.press("theme", "dark")
        page.press("scale", "log") if page.page.locator("#scale").count() else None


def test_gates_are_there_before_the_end(trained: Run, tmp_path: Path) -> None:
    """Gates read so far have verdicts, the spec's others their text; superseded verdicts go."""
    events = plain(trained)
    spec = json.loads(trained.store.get(f"{RUN}/spec.json").data)
    at = next(i for i, event in enumerate(events) if event["event"] == "gate")
    store = DirectoryStore(tmp_path)
    store_events(store, "small/x", events[: at + 1], spec)
    store_events(store, "small/y", events[: at + 1], {})
    back = {"event": "superseded", "step": 5, "from_seq": at + 1, "to_seq": at + 1}
    store_events(store, "small/z", [*events[: at + 1], back], spec)
    read, other = gather(store, "small/x", 1000)["gates"]
    assert (read["gate"], read["passed"]) == (events[at]["gate"], False)
    assert other == {"gate": "pair skill > -900% by epoch 3 (validation)"}
    assert [gate["gate"] for gate in gather(store, "small/y", 1000)["gates"]] == [read["gate"]]
    data = gather(store, "small/z", 1000)
    assert data["gates"] == [{"gate": read["gate"]}, other]
    assert data["marks"]["superseded"] == []  # no step was undone


def test_numbers_are_typeset() -> None:
    """A minus sign for a hyphen, a space before the percent sign."""
    assert typeset("-45.6%") == "−45.6\xa0%"
    assert typeset("-1.2e-05") == "−1.2e−05"


# --- long runs ------------------------------------------------------------------------------------


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_no_spike_is_lost(values: list[float | None], most: int) -> None:
    """Every column has the least and the greatest of its values, in either order."""
    for rows in (list(enumerate(values, 1)), list(enumerate(values, 1))[::-1]):
        columns = Downsampler(len(values), most)
        for position, value in rows:
            columns.add(position, [value])
        (series,) = columns.series()
        assert columns.count <= most
        for i in range(columns.count):
            here = [v for v in values[i * columns.width : (i + 1) * columns.width] if v is not None]
            low, high = (series.get(name, series["mean"])[i] for name in ("low", "high"))
            assert (low, high) == ((min(here), max(here)) if here else (None, None))


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    """32 tasks, more steps than columns: under 10 MB, with the spike, without superseded steps."""
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
        column = run["steps"]["tasks"][name]["loss_original"]
        assert column["low"] == [min(part) for part in parts]
        assert column["high"] == [max(part) for part in parts]
    assert max(run["steps"]["tasks"]["task_00"]["loss_original"]["high"]) == SPIKE
    assert run["marks"]["superseded"] == [[1800, 1850]]
    assert run["marks"]["resumes"] == [1800]


def test_a_long_run_on_a_phone(chromium: Browser, tmp_path: Path) -> None:
    """Means are drawn with bands; a table that scrolls has a faded edge and keeps its first column.

    Superseded steps are veiled inside the chart only; the table of events is as wide as the page.
    """
    store = DirectoryStore(tmp_path)
    store_events(store, "long/r", long_run(2400, 2), spec_of(2400, 2))
    file = tmp_path / "page.html"
    file.write_text(report([(store, "long/r")]))
    with open_page(chromium, file, 390) as page:
        weights = "CHARTS.find((chart) => chart.label.includes('weights'))"
        assert page.run(f"{weights}.plot.series.slice(1).map((line) => line.width)") == (
            [0.5, 0.5, 1.5] * 2
        )
        mean = page.run("DATA.runs[0].steps.tasks.task_00.weight.mean")
        assert page.run(f"{weights}.plot.data[3]") == mean
        scroll = page.page.locator("#outcome .scroll")
        assert page.run("document.querySelector('#outcome .scroll').className") == "scroll more"
        first = scroll.locator("tbody th").first
        place = first.bounding_box()
        scroll.evaluate("(element) => element.scrollTo(1000, 0)")
        page.page.wait_for_selector("#outcome .scroll.moved:not(.more)")
        assert first.bounding_box() == place
        details = page.page.locator(".events tbody td:last-child").first.bounding_box()
        assert details is not None
        assert details["width"] > 300
        page.run("zoomTo([3.65, 4.2])")  # steps 1825 …; 1800 to 1850 were undone
        covered = page.run("""(() => {
            const { ctx, bbox: { left, top, height } } = CHARTS[0].plot;
            const { data } = ctx.getImageData(0, top, left - 6, height);
            return data.filter((value, i) => i % 4 === 3 && value).length / (data.length / 4);
        })()""")
        assert covered < 0.3


# --- writing it -----------------------------------------------------------------------------------


class Failing(DirectoryStore):
    """A store that refuses a report; while `answering` is not set, it does not answer."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.answering = threading.Event()
        self.answering.set()

    def put(self, key: str, data: Bytes) -> str:
        if key.endswith("report.html"):
            self.answering.wait()
            raise StoreError("no room")
        return super().put(key, data)


def test_why_a_report_cannot_be_stored(tmp_path: Path) -> None:
    """The store refuses it, has no such run, or does not answer; waiting for it has an end."""
    store = Failing(tmp_path)
    store_events(store, "long/r", long_run(5, 2), spec_of(500, 2))
    assert store_report(store, "long/r") == "StoreError: no room"
    assert "has no run long/q" in store_report(store, "long/q")
    store.answering.clear()
    assert store_report(store, "long/r", seconds=0.2) == "it took longer than 0.2 s"
    assert "a signal" in store_report(store, "long/r", stopping=lambda: True)
    store.answering.set()


def test_a_run_ends_without_its_report(nursery: Nursery, tmp_path: Path) -> None:
    """If the page cannot be stored, exit code and result are the same, and one line says why."""
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
    """Run `deploy.report`; returns its exit code and its stderr."""
    process = nursery.start(*arguments, program="deploy.report")
    return process.wait(), process.err


def test_only_a_report_is_replaced(trained: Run, nursery: Nursery, tmp_path: Path) -> None:
    """`-o` replaces a report whole, and never another file or a folder."""
    file = tmp_path / "page.html"
    for _ in range(2):
        assert cli(nursery, "r", "--store", trained.url, "-o", file)[0] == 0
    notes = tmp_path / "notes.html"
    notes.write_text("mine")
    code, err = cli(nursery, "r", "--store", trained.url, "-o", notes)
    assert (code, notes.read_text()) == (2, "mine")
    assert "only a report is replaced" in err
    assert cli(nursery, "r", "--store", trained.url, "-o", tmp_path)[0] == 2
    code, err = cli(nursery, "r", "--store", trained.url, "-o", tmp_path / "no" / "page.html")
    assert (code, str(tmp_path / "no") in err, ".part" in err) == (2, True, False)
    assert cli(nursery, "r", "--store", trained.url, "-o", "-", "--json")[0] == 2
    process = nursery.start("r", "--store", trained.url, "-o", "-", program="deploy.report")
    assert process.wait() == 0, process.err
    assert data_of(process.out) == data_of(file.read_text())
    code, err = cli(nursery, "q", "--store", trained.url, "-o", file)
    assert code == 102
    assert "holds no run q" in err
    assert [path.name for path in tmp_path.glob("*page*")] == ["page.html"]


def test_a_run_is_found_where_it_is(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is found by id, by name and id, or by folder, in ./runs too; other paths are not."""
    monkeypatch.setenv("EVENGRAD_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("EVENGRAD_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(trained.url)
    Path("spec.json").write_text("{}")
    for name in ("r", RUN, f"runs/{RUN}", f"runs/{RUN}/"):
        assert locate(name, None).run == RUN
    for name, said in {
        "q": "knows no run q, and runs holds none; name its store with",
        "runs/nosuch": "knows no run runs/nosuch, and runs holds none; there is runs/small/r",
        "runs": "runs: found a folder, which is not a run's folder; there is runs/small/r",
        f"runs/{RUN}/report.html": "found a file, which is not a run's folder; there is runs/sm",
        "spec.json": "spec.json: found a file, which is not a run's folder; give a run's folder",
    }.items():
        with pytest.raises(CommandError, match=re.escape(said)):
            locate(name, None)
