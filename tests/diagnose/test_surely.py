"""What counts as a risen skill, and as being ahead: by enough, and by more than chance brings.

The losses of 64 samples on each split are given, beside a trivial prediction whose loss is 1 at all
of them.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from job.data.dataset import Dataset, load
from job.diagnose.case import Case, Watch, is_risen
from job.diagnose.probe import Evaluation, Probe, is_ahead
from job.model.losses import TaskLoss
from job.spec.patch import Edit
from job.spec.read import parse_spec
from job.train.evaluate import Losses
from job.train.yardsticks import Yardsticks

COUNT = 64
SPEC = {
    "name": "surely",
    "data": {"kind": "arrays", "path": "a.npz", "split": "tail", "validation": 0.5},
    "model": {"kind": "mlp", "hidden": [2]},
    "tasks": [{"name": "y", "level": "window", "loss": {"kind": "mse"}}],
    "train": {"epochs": 1, "batch_size": 8},
}


class At(NamedTuple):
    """A mean loss, and how far each sample's lies above or below it, in turn."""

    mean: float
    spread: float = 0.0


NOTHING = At(1.0)
"""As good as the trivial prediction."""


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Targets of 1 and -1 in turn."""
    features = np.random.default_rng(0).normal(size=(2 * COUNT, 2))
    np.savez(tmp_path / "a.npz", features=features, y=np.tile([1.0, -1.0], COUNT)[:, None])
    return load(parse_spec(json.dumps(SPEC)), tmp_path)


def probe_of(data: Dataset, train: list[float], validation: list[float]) -> Probe:
    """A probe that ends with these losses of its samples."""
    spec = parse_spec(json.dumps(SPEC))
    loss = TaskLoss(spec.tasks[0])
    loss.fit(data.train.targets["y"])
    end = [torch.tensor([each], dtype=torch.float64) for each in (train, validation)]
    measured = [Losses(x.mean(1).tolist(), x.mean(1).tolist(), [0.0], x) for x in end]
    probe = Probe(spec, data, Yardsticks([loss], data), planned=1, batches=1, reach={})
    probe.evaluations.append(Evaluation(1, *measured))
    assert probe.trivial("y") == probe.trivial("y", "validation") == 1
    return probe


def with_losses(data: Dataset, validation: At, train: At = NOTHING) -> Probe:
    """A probe with these losses on both splits."""
    each = [[at.mean + at.spread * (-1) ** i for i in range(COUNT)] for at in (train, validation)]
    return probe_of(data, *each)


@pytest.mark.parametrize(
    ("before", "after", "risen"),
    [
        (1.0, 0.88, True),
        (1.0, 0.92, False),
        (1.0, 1.5, False),
        (0.5, 0.33, True),
        (0.5, 0.37, False),
        (0.1, 0.04, True),
        (0.1, 0.06, False),
    ],
)
def test_a_skill_rises_by_enough(data: Dataset, before: float, after: float, risen: bool) -> None:
    """By 10 points where there was none; else by 30 % of what is missing, and by 5 points."""
    was, now = (with_losses(data, At(mean)) for mean in (before, after))
    assert is_risen(was, now, "y") is risen


@pytest.mark.parametrize(("errors", "risen"), [(2.5, False), (3.5, True)])
def test_a_skill_rises_by_more_than_its_error(data: Dataset, errors: float, risen: bool) -> None:
    """By three standard errors of the difference, sample by sample."""
    rise = 0.15
    noisy = At(1 - rise, spread=rise / errors * math.sqrt(COUNT - 1))
    assert is_risen(with_losses(data, NOTHING), with_losses(data, noisy), "y") is risen
    hard = 0.6  # the same samples are hard before and after, so all gain as much
    was, now = (with_losses(data, At(mean, hard)) for mean in (1.0, 1 - rise))
    assert is_risen(was, now, "y")


def test_a_known_task_must_gain_on_validation(data: Dataset) -> None:
    """On training alone a skill rises only for a task that has none on validation."""
    better = At(0.2)
    assert is_risen(with_losses(data, NOTHING), with_losses(data, NOTHING, better), "y")
    assert not is_risen(with_losses(data, At(0.5)), with_losses(data, At(0.5), better), "y")


def test_what_is_learned_by_heart_is_no_rise(data: Dataset) -> None:
    """A gain on training counts for a task without skill only if validation does not lose by it."""
    better = At(0.2)
    assert is_risen(with_losses(data, At(1.5)), with_losses(data, At(1.4), better), "y")
    assert not is_risen(with_losses(data, At(1.2)), with_losses(data, At(1.6), better), "y")


def ahead_at(data: Dataset, count: int) -> Probe:
    """A probe that beats the trivial prediction at so many validation samples, and fails badly at
    the others."""
    validation = [0.5 if i < count else 9.0 for i in range(COUNT)]
    return probe_of(data, [1.0] * COUNT, validation)


@pytest.mark.parametrize(
    ("mine", "chance", "ahead"),
    [
        (50, 32, True),
        (46, 32, False),
        (60, 58, False),
        (33, 0, True),
        (32, 0, False),
        (32, 50, False),
    ],
)
def test_being_ahead_is_no_chance(data: Dataset, mine: int, chance: int, ahead: bool) -> None:
    """At most samples, and at more than with shuffled targets by three standard errors: of 64, 50
    are 3.5 above 32, and 46 are 2.6."""
    assert is_ahead(ahead_at(data, mine), ahead_at(data, chance), "y") is ahead


def test_samples_that_share_data_count_less(data: Dataset) -> None:
    """Of windows that overlap fourfold, a quarter count."""
    windows = replace(data, validation=replace(data.validation, overlap=4))
    assert is_ahead(ahead_at(data, 50), ahead_at(data, 32), "y")
    assert not is_ahead(ahead_at(windows, 50), ahead_at(windows, 32), "y")


def test_an_edit_must_be_valid_with_the_data(data: Dataset) -> None:
    """The fixed spec must run: fewer epochs, or larger batches, may not end before a warm-up."""
    train = {"epochs": 4, "batch_size": 8, "warmup": 20}
    original = parse_spec(json.dumps(SPEC | {"train": train}))  # 8 steps an epoch
    at = with_losses(data, NOTHING)
    looks: Any = None
    case = Case(original, at, lambda _: at, lambda _: {}, math.inf, Watch(), looks, looks)
    assert case.edited(Edit(("train", "epochs"), 3)) is not None
    assert case.edited(Edit(("train", "epochs"), 2)) is None
    assert case.probe_with(Edit(("train", "batch_size"), 16)) is None
