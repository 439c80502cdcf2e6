"""Metrics of one's own are measured, kept and read like the built-in ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from job.data.dataset import load
from job.errors import InputError
from job.spec.read import parse_spec, read_spec
from job.train.build.check_own import check_own
from tests.support.tiny_job import PARTIAL, SMALL, Trained, edited, write

METRICS = """\
def square(prediction, target, times=1):
    return times * ((prediction - target) ** 2).mean() ** 0.5


def right(predicted, target):
    assert predicted.dtype == target.dtype and predicted.dim() == 1
    return float((predicted == target).sum()) / len(target)


def nothing(prediction, target):
    return None
"""


def own(name: str, higher: bool = False, **more: Any) -> dict[str, Any]:
    return {"file": "metrics.py", "name": name, "higher_is_better": higher, **more}


def place(folder: Path, tasks: list[Any], own: dict[str, list[Any]], **edits: Any) -> Path:
    """The small job with metrics of one's own by task; returns the spec's path."""
    tasks = [task | {"own_metrics": own.get(task["name"], [])} for task in tasks]
    path = write(folder, {"tasks": tasks, **edits})
    (folder / "metrics.py").write_text(METRICS)
    return path


def trained(path: Path) -> Trained:
    spec = read_spec(path)
    check_own(spec, load(spec, path.parent))
    made = Trained(spec, load(spec, path.parent))
    made.run()
    return made


@pytest.mark.parametrize("tasks", [SMALL["tasks"], PARTIAL], ids=["complete", "partial"])
def test_they_equal_built_in_ones(tmp_path: Path, tasks: list[Any]) -> None:
    """The root of the mean squared error, and the accuracy, as functions of a file: of elements
    with labels, on both splits, with options."""
    metrics = {
        "kind": [own("right", higher=True), own("nothing")],
        "level": [own("square", options={"times": 2})],
    }
    for epoch in trained(place(tmp_path, tasks, metrics)).epochs:
        for found in ("metrics", "val_metrics"):
            kind, level = (getattr(epoch.tasks[name], found) for name in ("kind", "level"))
            assert kind["right"] == kind["accuracy"]
            assert kind["nothing"] is None
            assert level["square"] == pytest.approx(2 * level["rmse"], rel=1e-5)
            assert "square" not in kind


@pytest.mark.parametrize("higher", [True, False])
def test_early_stop_and_gates_read_them(tmp_path: Path, higher: bool) -> None:
    """The best epoch is the highest or the lowest, as the spec says; a gate reads the value."""
    path = place(
        tmp_path,
        SMALL["tasks"],
        {"level": [own("square", higher)]},
        **{"train.epochs": 6, "checkpoint.best_of": "level", "checkpoint.best_metric": "square"},
        gates=[{"task": "level", "metric": "square", "below": 1e9, "by_epoch": 6}],
    )
    made = trained(path)
    values = [epoch.tasks["level"].val_metrics["square"] for epoch in made.epochs]
    assert None not in values
    best = (max if higher else min)(values, key=lambda value: value or 0.0)
    assert made.training.at.best_epoch["level.square"] == 1 + values.index(best)
    (gate,) = made.gates
    assert (gate.passed, gate.measured) == (True, values[-1])


def test_faults(tmp_path: Path) -> None:
    """A taken name, a metric that is not measured, and a function that fails: each is one line."""
    tasks = [SMALL["tasks"][1] | {"own_metrics": [own("rmse")]}]
    gates = [{"task": "level", "metric": "other", "below": 1, "by_epoch": 1}]
    with pytest.raises(InputError) as caught:
        parse_spec(json.dumps(edited({"tasks": tasks, "gates": []})))
    assert str(caught.value) == (
        '$.tasks[0].own_metrics[0].name: found "rmse"; there is a metric of that name; rename the '
        "function"
    )
    tasks[0]["own_metrics"] = [own("square")]
    with pytest.raises(InputError, match='the task "level" measures mae, rmse, r2, square'):
        parse_spec(json.dumps(edited({"tasks": tasks, "gates": gates})))
    path = place(tmp_path, SMALL["tasks"], {"level": [own("right")]})
    spec = read_spec(path)
    with pytest.raises(InputError) as caught:
        check_own(spec, load(spec, tmp_path))
    assert str(caught.value) == (
        "metrics.py:6: found AssertionError: ; right must return a number, or None; correct it; "
        "`job validate --traceback` prints the whole error"
    )


def test_a_value_that_is_not_finite_is_none(tmp_path: Path) -> None:
    """As of a built-in metric."""
    path = place(tmp_path, SMALL["tasks"], {"level": [own("square", options={"times": 1e308})]})
    assert trained(path).epochs[0].tasks["level"].metrics["square"] is None
    assert torch.isfinite(torch.tensor(1e308, dtype=torch.float64))
