"""A run evaluated on labelled data shows what it showed on its own validation split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from playwright.sync_api import Browser

from job.data.dataset import load as load_data
from job.errors import InputError
from job.evaluate.evaluation import evaluate
from job.events import FinalTestTask
from job.predict import load
from job.record.history import read_history
from job.store import open_store
from tests.support.browser import browser, open_page
from tests.support.command import here
from tests.support.finished import finish
from tests.support.people import N, people
from tests.support.tiny_job import PARTIAL, write

Line = dict[str, Any]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for this file."""
    with browser() as started:
        yield started


def last_epoch(place: str) -> Line:
    root, name, run_id = place.rsplit("/", 2)
    history = read_history(open_store(root), f"{name}/{run_id}")
    tasks: Line = [e for e in history if e["event"] == "epoch"][-1]["tasks"]
    return tasks


def rows_of(folder: Path, name: str, rows: Any) -> Path:
    """Those rows of the small job's arrays in a file of their own."""
    stored = np.load(folder / "small.npz")
    np.savez(folder / name, **{key: stored[key][rows] for key in stored.files})
    return folder / name


@pytest.mark.parametrize("partial", [False, True])
def test_its_own_validation_split(tmp_path: Path, partial: bool) -> None:
    """Losses and metrics are the run's, with missing labels and weights too; so is the skill of a
    task of one prediction a sample, and that of a task of positions is no larger."""
    edits = {"tasks": PARTIAL} if partial else {}
    place = finish(write(tmp_path, {**edits, "train.epochs": 5, "optimizer.lr": 0.02}))
    predictor = load(place)
    held_out = len(load_data(predictor.spec, tmp_path).validation)
    file = rows_of(tmp_path, "later.npz", slice(-held_out, None))
    found = evaluate(predictor, str(file)).whole.test
    assert found.samples == held_out
    for name, recorded in last_epoch(place).items():
        mine: FinalTestTask = found.tasks[name]
        assert mine.loss == pytest.approx(recorded["val_loss"], rel=1e-5)
        assert mine.loss_original == pytest.approx(recorded["val_loss_original"], rel=1e-5)
        assert mine.metrics == pytest.approx(recorded["val_metrics"], rel=1e-5)
        if "val_skill" not in recorded:
            assert mine.skill is None
            assert name in found.unmeasurable
        elif name in ("kind", "level"):
            assert mine.skill == pytest.approx(recorded["val_skill"], rel=1e-5)
            assert mine.skill_error == pytest.approx(recorded["val_skill_error"], rel=1e-5)
        else:
            assert mine.skill is not None
            assert mine.skill <= recorded["val_skill"] + 1e-6


OWN = """\
def far(prediction, target):
    return (prediction - target).abs() ** 1.5


def worst(prediction, target):
    return (prediction - target).abs().max()
"""
"""A loss and a metric of one's own."""


def test_a_loss_and_a_metric_of_ones_own(tmp_path: Path) -> None:
    """They are those of the file, which is needed, while a prediction does without."""
    metric = {"file": "own.py", "name": "worst", "higher_is_better": False}
    task = {
        **{"name": "level", "level": "window", "own_metrics": [metric]},
        **{"loss": {"kind": "python", "file": "own.py", "name": "far"}},
    }
    spec = write(tmp_path / "here", {"tasks": [task]})
    (spec.parent / "own.py").write_text(OWN)
    place = finish(spec)
    file = rows_of(spec.parent, "later.npz", slice(-9, None))
    found = evaluate(load(place, spec_folder=spec.parent), str(file)).whole.test.tasks["level"]
    recorded = last_epoch(place)["level"]
    assert found.loss_original == pytest.approx(recorded["val_loss_original"], rel=1e-5)
    assert found.metrics == pytest.approx(recorded["val_metrics"], rel=1e-5)
    assert "worst" in found.metrics
    elsewhere = load(place, spec_folder=tmp_path)
    assert elsewhere.predict(np.load(file)["features"])["level"].values.shape == (9, 1)
    with pytest.raises(InputError, match=r"\$\.tasks\[0\]\.loss\.file: found no own\.py in"):
        evaluate(elsewhere, str(file))


def test_noise_has_no_skill(tmp_path: Path) -> None:
    """On samples whose targets were permuted, none is surely above 0, whatever the run learned."""
    place = finish(write(tmp_path, {"train.epochs": 20, "optimizer.lr": 0.02}))
    stored = dict(np.load(tmp_path / "small.npz"))
    order = np.random.default_rng(5).permutation(len(stored["features"]))
    for name in stored.keys() - {"features"}:
        stored[name] = stored[name][order]
    np.savez(tmp_path / "noise.npz", **stored)
    predictor = load(place)
    skills = evaluate(predictor, str(tmp_path / "noise.npz")).whole.test.tasks
    assert all(task.skill_low is not None and task.skill_low < 0 for task in skills.values())
    true = evaluate(predictor, str(tmp_path / "small.npz")).whole.test.tasks
    assert true["level"].skill_low is not None
    assert true["level"].skill_low > 0


def test_gates_and_slices(table: Path, tmp_path: Path, capsys: Capture) -> None:
    """Gates on this data decide the exit code; those about training are named; slices are rows."""
    run, data = table / "store/people/run", table / "people.csv"
    code, out, _ = here(capsys, "evaluate", run, "--data", data, "--slice", "city", "--json")
    found = json.loads(out)
    passed = [gate["passed"] for gate in found["gates"]]
    assert code == (0 if all(passed) else 6)
    assert len(found["gates"]) == 2
    assert found["gates_left_out"] == ["income drops > 0% by epoch 4 (train)"]
    assert found["samples"] == N
    assert sorted(found["slices"]) == ["Bern", "Oslo", "Rome"]
    counts = {city: people()["city"].count(city) for city in found["slices"]}
    assert {k: each["samples"] for k, each in found["slices"].items()} == counts
    weighed = sum(
        each["samples"] * each["tasks"]["income"]["metrics"]["mae"]
        for each in found["slices"].values()
    )
    assert weighed / N == pytest.approx(found["tasks"]["income"]["metrics"]["mae"])
    code, out, _ = here(capsys, "evaluate", run, "--data", data, "--slice", "ill")
    for text in ("120 samples", "risk", "slices", "not measured here", "yes"):
        assert text in out


def test_why_a_value_is_not_there(table: Path, tmp_path: Path, capsys: Capture) -> None:
    """Of a slice with few rows, one class or one value: a line below the table, and in JSON."""
    rows = people()
    kind = ["few"] * 5 + ["no one ill"] * 20 + ["all alike"] * 20 + ["rest"] * (N - 45)
    rows |= {"kind": kind, "ill": [*rows["ill"][:5], *["no"] * 20, *rows["ill"][25:]]}
    rows["income"][25:45] = [5000.0] * 20
    pa.csv.write_csv(pa.table(rows), tmp_path / "new.csv")
    words = ("evaluate", table / "store/people/run", "--data", tmp_path / "new.csv")
    _, out, _ = here(capsys, *words, "--slice", "kind", "--json")
    found = json.loads(out)
    few = "it has 5 of the 8 samples that are needed"
    same = "the target is the same in all its samples"
    whys = {name: each["lacking"] for name, each in found["slices"].items()}
    assert whys["few"] == {name: {"skill": few} for name in ("risk", "ill", "income")}
    assert whys["no one ill"] == {
        "ill": {
            "skill": same,
            "auroc": "it needs both ones and zeros, and finite predictions",
            "average_precision": "it needs a one in the targets, and finite predictions",
        }
    }
    assert whys["all alike"]["income"] == {
        "skill": same,
        "r2": "it needs targets that differ, and finite predictions",
    }
    for each in (found, *found["slices"].values()):  # what has no value has a reason
        for name, task in each["tasks"].items():
            values = {"skill": task.get("skill"), **task["metrics"]}
            assert {what for what, value in values.items() if value is None} == set(
                each["lacking"].get(name, ())
            )
    _, out, _ = here(capsys, *words, "--slice", "kind")
    text = " ".join(out.split())
    assert f'no skill of risk, ill, income in "few": {few}' in text
    assert f'no skill of ill in "no one ill": {same}' in text
    assert 'no auroc of ill in "no one ill": it needs both ones and zeros' in text


def test_a_failed_gate(tmp_path: Path, capsys: Capture) -> None:
    """A gate that the run passed can fail on other data: exit code 6."""
    gates = [{"task": "level", "metric": "mae", "below": 30, "by_epoch": 3}]
    place = finish(write(tmp_path, {"gates": gates}))
    file = rows_of(tmp_path, "far.npz", slice(None))
    stored = dict(np.load(file))
    code, _, _ = here(capsys, "evaluate", place, "--data", file)
    assert code == 0
    np.savez(file, **{**stored, "level": stored["level"] + 1000})
    code, out, _ = here(capsys, "evaluate", place, "--data", file)
    assert code == 6
    assert "failed" in out


def test_what_it_lacks(table: Path, tmp_path: Path, capsys: Capture) -> None:
    """Targets, slices and classes that are not there are one line each."""
    run, rows = table / "store/people/run", people()
    lines = {}
    for name, columns, more in (
        ("risk", {k: v for k, v in rows.items() if k != "risk"}, ()),
        ("town", rows, ("--slice", "town")),
        ("100 groups", rows, ("--slice", "income")),
        ("awful", {**rows, "risk": ["awful", *rows["risk"][1:]]}, ()),
    ):
        pa.csv.write_csv(pa.table(columns), tmp_path / "new.csv")
        code, _, err = here(capsys, "evaluate", run, "--data", tmp_path / "new.csv", *more)
        assert code == 2, err
        (lines[name],) = [x for x in err.splitlines() if "best_of" not in x and "filled" not in x]
        assert name in lines[name]


def test_the_page(table: Path, tmp_path: Path, capsys: Capture, chromium: Browser) -> None:
    """The run's report, with a section of this data: its tasks, gates and slices, whose numbers are
    those of --json, and why some are not there."""
    rows = people() | {"city": ["Bern"] * 4 + ["Oslo"] * (N - 4)}
    pa.csv.write_csv(pa.table(rows), tmp_path / "new.csv")
    run, page = table / "store/people/run", tmp_path / "page.html"
    words = ("evaluate", run, "--data", tmp_path / "new.csv", "--slice", "city")
    _, out, _ = here(capsys, *words, "--report", page, "--json")
    found = json.loads(out)
    with open_page(chromium, page, width=1280) as opened:
        text = opened.page.locator("#evaluated").inner_text()
        whole, slices = (opened.cells(f"#evaluated table >> nth={k} >>") for k in (0, 2))
        assert opened.run("document.documentElement.scrollWidth") <= 1280
    for part in ("new.csv", "120 samples", "Gates on this data", "income drops > 0% by epoch 4"):
        assert part in text
    assert "it has 4 of the 8 samples that are needed" in text
    shown = [*(("", "120", *row) for row in whole), *slices]
    recorded = [
        (name, part["samples"], task)
        for name, part in (("", found), *found["slices"].items())
        for task in part["tasks"].items()
    ]
    for row, (group, samples, (name, task)) in zip(shown, recorded, strict=True):
        assert (row[0], int(row[1]), row[2].split()[0]) == (group, samples, name)
        for cell, key in ((row[3], "loss_original"), (row[4], "trivial_loss_original")):
            assert float(cell) == pytest.approx(task[key], rel=1e-3)
        skill = task.get("skill")
        assert row[5].split()[0] == (
            "–" if skill is None else f"{100 * skill:.1f}".replace("-", "−")
        )
        for cell in row[6].split(", "):
            metric, _, value = cell.rpartition(" ")
            wanted = task["metrics"][metric.replace(" ", "_")]
            assert float(value.replace("−", "-")) == pytest.approx(wanted, rel=1e-3)
