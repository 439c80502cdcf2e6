"""Alarms at step 0 about the data of a spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from job.data.dataset import load
from job.events import Alarm
from job.spec.read import parse_spec
from tests.support.tiny_job import Trained

Array = NDArray[Any]


CLASSES: dict[str, Any] = {"outputs": 4, "loss": {"kind": "cross_entropy"}}


def alarms(
    folder: Path,
    features: Array,
    y: Array | None = None,
    task: dict[str, Any] | None = None,
    **data: Any,
) -> list[str]:
    """The messages about the data, with their kinds, of a run's alarms at step 0."""
    target = np.random.default_rng(9).normal(size=len(features)) if y is None else y
    np.savez(folder / "a.npz", features=features, y=target)
    spec = {
        "name": "t",
        "data": {"kind": "arrays", "path": "a.npz", **data},
        "model": {"hidden": 2, "projection": 2},
        "tasks": [{"name": "y", "level": "window", "loss": {"kind": "mse"}} | (task or {})],
        "train": {"epochs": 1, "batch_size": 32, "threads": 1},
    }
    job = parse_spec(json.dumps(spec))
    made = Trained(job, load(job, folder))
    made.run(stop_at=1)
    about = ("constant_feature", "feature_spread", "split_shift", "copied_samples")
    found = [e for e in made.events if isinstance(e, Alarm) and e.kind in about]
    assert all(alarm.step == 0 for alarm in found)
    return [f"{alarm.kind}: {alarm.message}" for alarm in found]


def normal(*spreads: float, n: int = 200) -> Array:
    return np.random.default_rng(0).normal(0, spreads, (n, 2, len(spreads)))


def test_a_constant_feature(tmp_path: Path) -> None:
    """It is named with its value; several are listed, and the rest counted."""
    features = normal(1, 1, 1, 1, 1, 1)
    features[:, :, 2] = 7
    (line,) = alarms(tmp_path, features)
    assert line.startswith("constant_feature: feature 2 (7): constant in the training split")
    features[:, :, 1:] = 7
    (line,) = alarms(tmp_path, features)
    assert "feature 1 (7), feature 2 (7), feature 3 (7) and 2 more: constant" in line
    features = normal(1, 1)
    features[:, :, 1] = np.nan
    (line,) = alarms(tmp_path, features, missing="mean")
    assert line.startswith("constant_feature: feature 1 (no value): constant in the training split")


@pytest.mark.parametrize(
    ("spreads", "named"),
    [
        ((1, 1, 4000), "feature 2 (3.76e+03)"),
        ((1, 5e-4, 1), "feature 1 (0.000491)"),
        ((1, 1e6), "feature 1 ("),
    ],
)
def test_a_spread_far_off(tmp_path: Path, spreads: tuple[float, ...], named: str) -> None:
    """Without scaling a feature of another scale is named; standardized it is none."""
    features = normal(*spreads)
    (line,) = alarms(tmp_path, features, scale="none")
    assert line.startswith(f"feature_spread: {named}")
    assert 'set data.scale to "standardize"' in line
    assert alarms(tmp_path, features) == []


def test_all_spreads_far_off(tmp_path: Path) -> None:
    """If all features are alike, and far from 1, that is told."""
    (line,) = alarms(tmp_path, normal(5000, 6000), scale="none")
    assert "the typical standard deviation of the features is 5.02e+03" in line


def test_heavy_tails(tmp_path: Path) -> None:
    """A few huge values squeeze the others together under standardize, and stick out of robust."""
    features = normal(1, 1, 1)
    features[3, 0, 1] = 1e5
    (line,) = alarms(tmp_path, features)
    assert line.startswith("feature_spread: feature 1 (0.00017")
    assert "in the middle half of its values" in line
    (line,) = alarms(tmp_path, features, scale="robust", split="tail")
    assert line.startswith("feature_spread: feature 1 (4.17e+03)")


def test_ordinary_features_have_none(tmp_path: Path) -> None:
    """Scales that differ a hundredfold, flags, counts and exponential tails are ordinary."""
    draw = np.random.default_rng(0)
    features = normal(1, 100, 0.1, 1, 1)
    features[:, :, 3] = draw.random((200, 2)) < 0.03
    features[:, :, 4] = draw.exponential(size=(200, 2)) ** 2
    for scale in ("standardize", "robust"):
        assert alarms(tmp_path, features, scale=scale) == []


def test_a_tail_unlike_the_rest(tmp_path: Path) -> None:
    """Sorted targets under a tail split raise an alarm with both means; a random split has none."""
    y = np.arange(200.0)
    (line,) = alarms(tmp_path, normal(1, 1), y, split="tail")
    assert line.startswith("split_shift: y: the targets of the tail are not like the others: the ")
    assert "mean is 79.5 in training and 179.5 in validation, 3" in line
    assert alarms(tmp_path, normal(1, 1), y) == []


def test_classes_of_the_tail(tmp_path: Path) -> None:
    """Of classes, the share of the one that differs most is told for both splits."""
    y = np.sort(np.arange(200) % 4)
    (line,) = alarms(tmp_path, normal(1, 1), y, CLASSES, split="tail")
    assert "class 3 is 6% of training and 100% of validation" in line
    assert alarms(tmp_path, normal(1, 1), y, CLASSES) == []


@pytest.mark.parametrize("n", [64, 80, 400])
def test_chance_is_no_shift(tmp_path: Path, n: int) -> None:
    """Draws of one distribution stay far below the bounds, also where the tail is small."""
    for seed in range(10):
        draw = np.random.default_rng(seed)
        features = normal(1, 1, n=n)
        assert alarms(tmp_path, features, draw.lognormal(size=n), split="tail") == []
        assert alarms(tmp_path, features, draw.integers(4, size=n), CLASSES, split="tail") == []


def test_copies(tmp_path: Path) -> None:
    """Samples that are in both splits, or several times in one, are counted; a few are none."""
    few, many = normal(1, 1, n=40), normal(1, 1)
    y, of_many = few[:, 0, :1], many[:, 0, :1]
    x, target = (np.concatenate([each, each[:1]]) for each in (many, of_many))
    assert alarms(tmp_path, x, target) == []
    (line,) = alarms(tmp_path, np.repeat(few, 5, 0), np.repeat(y, 5, 0))
    assert line.startswith("copied_samples: of 40 validation samples ")
    assert " are copies of training samples, and " in line
    twice = np.concatenate([many[:160], many[:40]])
    (line,) = alarms(tmp_path, twice, twice[:, 0, :1], split="tail")
    assert " 40 are copies of training samples: the skill on them is memory; keep copies" in line
    twice = np.concatenate([many[:160], np.repeat(many[160:180], 2, 0)])
    (line,) = alarms(tmp_path, twice, twice[:, 0, :1], split="tail")
    assert " 20 are copies of each other: the skill's error is too small; drop them, " in line
    other = np.random.default_rng(1).normal(size=(200, 1))
    assert alarms(tmp_path, np.repeat(few, 5, 0), other) == []  # with other targets they are none
