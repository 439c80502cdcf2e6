"""Real data under every loss beside permuted targets: what has skill, and what has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import datasets

from job.data.dataset import load
from job.spec.read import parse_spec
from tests.support.tiny_job import Trained

STANDARD: dict[str, Any] = {"transform": {"kind": "standardize"}}
LISTS, PATIENTS = 147, 3


def step(name: str, target: str, outputs: int = 1, **loss: Any) -> dict[str, Any]:
    return {"name": name, "level": "step", "target": target, "outputs": outputs, "loss": loss}


TASKS = [
    step("quantile", "progress", kind="quantile") | STANDARD,
    step("gaussian", "progress", kind="gaussian_nll") | STANDARD,
    step("poisson", "progress", kind="poisson_nll"),
    step("ordinal", "grade", 4, kind="ordinal"),
    step("smoothed", "grade", 4, kind="cross_entropy", smoothing=0.1),
    step("focal", "grade", 4, kind="cross_entropy", focal=2.0),
    step("high", "high", kind="binary_cross_entropy", focal=2.0),
    {
        "name": "order",
        "level": "window",
        "target": "bmi",
        "outputs": 3,
        "loss": {"kind": "ranking"},
    },
]
"""Of patients in lists of three: how their diabetes progressed within a year, and whose body mass
index, which is a feature, is the larger one."""


def write(folder: Path) -> None:
    """Scikit-learn's diabetes data, in lists."""
    x, y = datasets.load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[: LISTS * PATIENTS]
    x, y = x[order].reshape(LISTS, PATIENTS, -1), y[order].reshape(LISTS, PATIENTS)
    np.savez(
        folder / "diabetes.npz",
        features=x / x.std(),
        progress=y,
        grade=np.digitize(y, np.quantile(y, [0.25, 0.5, 0.75])),
        high=(y > 150).astype(int),
        bmi=x[:, :, 2],
    )


def trained(folder: Path, epochs: int, control: bool = False) -> dict[str, dict[str, Any]]:
    """What the last epoch measured."""
    spec = {
        "name": "diabetes",
        "data": {"kind": "arrays", "path": "diabetes.npz", "scale": "none"},
        "model": {"hidden": 16, "projection": 16, "dropout": {"input": 0.1, "heads": 0.1}},
        "tasks": TASKS,
        "train": {"epochs": epochs, "batch_size": 16, "threads": 1},
        "optimizer": {"lr": 0.004},
        "balance": {"kind": "fixed"},
        "control": control,
    }
    parsed = parse_spec(json.dumps(spec))
    run = Trained(parsed, load(parsed, folder))
    assert run.run()
    return {name: task.model_dump() for name, task in run.epochs[-1].tasks.items()}


def test_every_loss_trains_with_skill_and_metrics(tmp_path: Path) -> None:
    """After two epochs each has a finite skill on both splits, and its metrics a value."""
    write(tmp_path)
    for name, task in trained(tmp_path, 2).items():
        assert -1 < task["skill"] < 1, name
        assert -1 < task["val_skill"] < 1, name
        assert task["val_metrics"], name
        assert all(value is not None for value in task["val_metrics"].values()), name


@pytest.mark.slow
def test_skill_is_of_what_can_be_learned(tmp_path: Path) -> None:
    """On validation each loss has skill, and more than under permuted targets, where none has any
    that is sure; the metrics agree."""
    write(tmp_path)
    real, control = trained(tmp_path, 20), trained(tmp_path, 20, control=True)
    for name, task in real.items():
        other = control[name]
        assert task["skill"] - 3 * task["skill_error"] > 0, name
        assert task["val_skill"] > 0.02, name
        assert task["val_skill"] > other["val_skill"] + task["val_skill_error"], name
        assert other["val_skill"] - 2 * other["val_skill_error"] < 0, name
    for name in ("quantile", "gaussian", "poisson"):
        assert real[name]["val_metrics"]["r2"] > 0.2, name
        assert control[name]["val_metrics"]["r2"] < 0.05, name
    assert real["ordinal"]["val_metrics"]["mae"] < control["ordinal"]["val_metrics"]["mae"]
    assert real["order"]["val_metrics"]["pair_accuracy"] > 0.6
