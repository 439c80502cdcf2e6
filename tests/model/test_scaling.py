"""The scaling of features: fitted, part of the state, applied by the network itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from job.data.dataset import load
from job.data.encoding.feature_stats import CHUNK, measure_features
from job.model.scaling import Scaling
from job.spec.read import parse_spec
from tests.support.tiny_job import State, Trained

Array = NDArray[Any]
EPOCHS = 4


def fitted(features: Array, kind: str, whole: float = 1.0) -> Scaling:
    scaling = Scaling(features.shape[2])
    scaling.fit(kind, measure_features(torch.from_numpy(features).float()), whole)
    return scaling


def trained(folder: Path, features: Array, target: Array, **data: Any) -> Trained:
    np.savez(folder / "a.npz", features=features, y=target)
    spec = {
        "name": "t",
        "data": {"kind": "arrays", "path": "a.npz", **data},
        "model": {"hidden": 16, "projection": 16},
        "optimizer": {"lr": 0.01},
        "tasks": [
            {"name": "y", "level": "window", "outputs": 10, "loss": {"kind": "cross_entropy"}}
        ],
        "train": {"epochs": EPOCHS, "batch_size": 32, "threads": 1},
    }
    job = parse_spec(json.dumps(spec))
    made = Trained(job, load(job, folder))
    made.run()
    return made


def test_statistics_are_those_of_numpy() -> None:
    """Mean, deviation, range and quartiles of every feature, in chunks, some values missing."""
    values = np.random.default_rng(0).lognormal(size=(CHUNK // 4 + 9, 5, 3)).astype("f4")
    values[::7, 2, 1] = np.nan
    stats = measure_features(torch.from_numpy(values))
    flat = values.reshape(-1, 3).astype("f8")
    assert stats.mean == pytest.approx(np.nanmean(flat, 0))
    assert stats.deviation == pytest.approx(np.nanstd(flat, 0))
    assert stats.low == pytest.approx(np.nanmin(flat, 0))
    assert stats.high == pytest.approx(np.nanmax(flat, 0))
    assert stats.quartiles == pytest.approx(np.nanquantile(flat, (0.25, 0.5, 0.75), axis=0))
    assert stats.missing.tolist() == [0, len(values[::7]), 0]


def test_standardize() -> None:
    """Every feature gets mean 0 and standard deviation 1 over the training split."""
    values = np.random.default_rng(0).normal([5, -300, 1e6], [1e-3, 40, 1e5], (500, 4, 3))
    scaled = fitted(values, "standardize")(torch.from_numpy(values).float()).double()
    assert scaled.mean((0, 1)).tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert scaled.std((0, 1)).tolist() == pytest.approx([1, 1, 1], rel=1e-2)


def test_robust() -> None:
    """Median 0 and interquartile range 1, whatever the outliers; the standard deviation where most
    values are equal."""
    values = np.random.default_rng(0).normal(5, 2, (999, 1, 2))
    values[:9, 0, 0] = 1e6
    values[:, 0, 1] = np.arange(999) % 10 == 0
    scaling = fitted(values, "robust")
    scaled = scaling(torch.from_numpy(values).float())[:, 0, 0].quantile(
        torch.tensor([0.25, 0.5, 0.75])
    )
    assert scaled[1].item() == pytest.approx(0, abs=1e-5)
    assert (scaled[2] - scaled[0]).item() == pytest.approx(1, rel=1e-5)
    assert scaling.scale[1].item() == pytest.approx(values[:, 0, 1].std())


@pytest.mark.parametrize("kind", ["standardize", "robust"])
@pytest.mark.parametrize("value", [0.0, 1e-30, 7.0, 1e30])
def test_constant_features_become_0(kind: str, value: float) -> None:
    """Also with the noise of rounding, and for another value later: nothing is blown up."""
    values = np.full((100, 2, 1), value, "f4")
    values[::2] = np.nextafter(np.float32(value), np.float32(np.inf))
    scaled = fitted(values, kind)(torch.tensor([[[value]], [[value + 1]], [[-5.0]]]))
    assert scaled.flatten().tolist() == [0, 0, 0]


def test_none_keeps_the_bits() -> None:
    """Without scaling features are the same bits; bytes become 0 … 1."""
    values = np.random.default_rng(0).normal(size=(50, 3, 2)).astype("f4")
    assert torch.equal(fitted(values, "none")(torch.from_numpy(values)), torch.from_numpy(values))
    bytes_ = torch.tensor([[[0.0], [255.0]]])
    assert fitted(bytes_.numpy(), "none", 255.0)(bytes_).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["standardize", "robust"])
def test_training_does_not_depend_on_the_unit(tmp_path: Path, kind: str) -> None:
    """Features × 1000 + a shift give the same training, but for rounding."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(200, 5, 3))
    target = (features.mean((1, 2)) > 0).astype(int)
    moved = features * 1000 + np.array([0, 500, -2000])
    one, other = (trained(tmp_path, x, target, scale=kind) for x in (features, moved))
    losses = [[step.tasks["y"].loss for step in run.steps] for run in (one, other)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_digits_in_thousands(tmp_path: Path) -> None:
    """scikit-learn's digits × 1000 are learned as well as the digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    skills = [
        trained(tmp_path, digits.images * unit, digits.target).epochs[-1].tasks["y"].val_skill
        for unit in (1, 1000)
    ]
    assert skills[0] is not None
    assert skills[0] > 0.5
    assert skills[1] == pytest.approx(skills[0], abs=0.02)


def test_the_state_holds_it(tmp_path: Path) -> None:
    """A network that was built for other data predicts from a checkpoint as the one it is of."""
    draw = np.random.default_rng(0)
    features, target = draw.normal(40, 7, (60, 3, 2)), np.arange(60) % 10
    made = trained(tmp_path, features, target)
    state, raw = State(made.training), torch.from_numpy(features[:5]).float()
    wanted = made.training.stepper.eval().model({"features": raw})
    other = trained(tmp_path, features * 9, target)
    assert not torch.equal(other.training.stepper.eval().model({"features": raw})[0], wanted[0])
    state.into(other.training)
    assert torch.equal(other.training.stepper.eval().model({"features": raw})[0], wanted[0])


def test_bytes(tmp_path: Path) -> None:
    """Images of bytes are divided by 255 where nothing else scales them."""
    features = np.random.default_rng(0).integers(0, 256, (60, 3, 2), dtype=np.uint8)
    made = trained(tmp_path, features, np.arange(60) % 10, scale="none")
    assert made.training.model.scalings["features"].scale.tolist() == [255, 255]
    assert made.training.data.train.inputs["features"].max() > 1
