"""Alarms about steps that cannot teach, on data that nobody here made, each with a healthy twin."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from torch import nn

from job.data.dataset import load
from job.events import Alarm
from job.spec.read import parse_spec
from job.train.alarms.of_updates import update_sizes
from job.train.updates.kinds import Adam, AdamW, Sgd
from tests.support.tiny_job import Trained

STANDARD = {"kind": "standardize"}
SETS: dict[str, dict[str, Any]] = {
    "diabetes": {"loss": {"kind": "mse"}, "transform": STANDARD},
    "wine": {"outputs": 3, "loss": {"kind": "cross_entropy"}},
    "breast_cancer": {"loss": {"kind": "binary_cross_entropy"}},
}
NET = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, tasks, inputs, bias):
        super().__init__()
        self.first = nn.Linear(inputs["features"].shape[-1], 32)
        self.heads = nn.ModuleDict(
            {
                task.name: nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, task.outputs))
                for task in tasks
            }
        )
        self.heads["again"][0].bias.data += bias

    def trunk(self, inputs):
        return self.first(inputs["features"][:, 0]).relu()

    def head(self, task, z, inputs):
        return self.heads[task](z)


def build(tasks, inputs, bias):
    return Net(tasks, inputs, bias)
"""


def alarms(
    folder: Path,
    name: str,
    edits: dict[str, Any],
    shift: float = 0.0,
    twice: bool = False,
) -> list[tuple[str, str | None]]:
    """Kinds and tasks of the alarms of a network that learns one of scikit-learn's sets.

    edits: of the spec's sections. shift: added to all features. twice: in a second task too.
    """
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    np.savez(folder / "a.npz", features=(x + shift).astype("f4"), y=y.astype("f4"))
    (folder / "net.py").write_text(NET)
    names = ["y", "again"] if twice else ["y"]
    spec: dict[str, Any] = {
        "name": "t",
        "data": {"kind": "arrays", "path": "a.npz", "scale": "standardize"},
        "model": {"kind": "mlp", "hidden": [32]},
        "tasks": [{"name": n, "target": "y", "level": "sample"} | SETS[name] for n in names],
        "train": {"epochs": 8, "batch_size": 16, "threads": 1},
    }
    for section, values in edits.items():
        spec[section] = values if "kind" in values else spec.get(section, {}) | values
    made = parse_spec(json.dumps(spec))
    trained = Trained(made, load(made, folder))
    trained.run()
    found = [event for event in trained.events if isinstance(event, Alarm)]
    return [(alarm.kind, alarm.task) for alarm in found if alarm.kind in OURS]


OURS = ("rate_too_low", "decay_dominates", "dead_path", "feature_offset")


@pytest.mark.parametrize("name", SETS)
def test_planted_in_foreign_data(tmp_path: Path, name: str) -> None:
    """A rate far too low and a decay far too high each have one alarm, about all tasks; what is
    usual has none."""
    assert alarms(tmp_path, name, {"optimizer": {"kind": "adamw", "lr": 3e-6}}) == [
        ("rate_too_low", None)
    ]
    decay = {"optimizer": {"kind": "adamw", "lr": 3e-3, "weight_decay": 100}}
    assert alarms(tmp_path, name, decay) == [("decay_dominates", None)]
    for kind in ("adamw", "sgd"):
        assert alarms(tmp_path, name, {"optimizer": {"kind": kind, "lr": 3e-3}}) == []


@pytest.mark.parametrize(("bias", "found"), [(-1000.0, [("dead_path", "again")]), (0.0, [])])
def test_a_path_of_dead_units(tmp_path: Path, bias: float, found: list[Any]) -> None:
    """A head whose units are never active gives its task an alarm, and the other none."""
    network = {"kind": "python", "file": "net.py", "options": {"bias": bias}}
    edits = {"model": network, "optimizer": {"kind": "adamw", "lr": 3e-3}}
    assert alarms(tmp_path, "diabetes", edits, twice=True) == found


@pytest.mark.parametrize(
    ("scale", "shift", "count"), [("none", 1e3, 1), ("none", 0, 0), ("standardize", 1e3, 0)]
)
def test_features_far_from_zero(tmp_path: Path, scale: str, shift: float, count: int) -> None:
    """Features whose mean is far beside their spread have an alarm, unless they are scaled."""
    found = alarms(tmp_path, "diabetes", {"data": {"scale": scale}, "train": {"epochs": 1}}, shift)
    assert found == [("feature_offset", None)] * count


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_the_parts_of_a_step(kind: str) -> None:
    """What decay takes and what the gradient gives are those of two steps, one without decay, and
    no step moves the weights by more than the travel allows."""
    settings: dict[str, Any] = {"lr": 0.01, "fused": True}
    settings |= {"momentum": 0.9} if kind == "sgd" else {}
    made: Any = {"adamw": AdamW, "adam": Adam, "sgd": Sgd}[kind]
    torch.manual_seed(0)
    start = torch.randn(30, 20)
    weights = [nn.Parameter(start.clone()) for _ in range(2)]
    both = [
        made([w], weight_decay=decay, **settings)
        for w, decay in zip(weights, (0.5, 0.0), strict=True)
    ]
    gradient = torch.randn(30, 20)
    for optimizer, w in zip(both, weights, strict=True):
        optimizer.param_groups[0] |= {"base_lr": 0.01, "muon": False}
        w.grad = gradient.clone()
        optimizer.step()
    found, ends = update_sizes(both[0], steps=1), [w.detach() for w in weights]
    if kind == "adamw":
        taken, given = ends[0] - ends[1], ends[1] - start
        assert found.decay == pytest.approx(float(taken.norm() / given.norm()), rel=0.02)
    else:
        assert found.decay == pytest.approx(0.5 * float(start.norm() / gradient.norm()), rel=0.02)
    assert update_sizes(both[1], steps=1).decay == 0.0
    moved = float((ends[1] - start).norm() / start.norm())
    assert moved <= update_sizes(both[1], steps=1).travel * 1.02
    assert math.isclose(update_sizes(both[1], 10).travel, 10 * update_sizes(both[1], 1).travel)
