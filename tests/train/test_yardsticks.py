"""Yardsticks: what a run's splits can tell, and beside what."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from job.data.dataset import Dataset, Split
from job.model.losses import TaskLoss
from job.model.skill import measure_skill
from job.spec.read import parse_spec
from job.train.evaluate import Losses, evenly_spaced, train_samples
from job.train.yardsticks import Yardsticks
from tests.support.nets import task
from tests.support.tiny_job import SMALL

LEVEL = task("level", "window", "mse")
RARE = task("rare", "window", "binary_cross_entropy")


def draw(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))


def split(count: int, overlap: int = 1, rare: int = 9, seed: int = 0) -> Split:
    """Samples with a level and a bit that is set in `rare` of them."""
    targets = {"level": draw(count, seed), "rare": (torch.arange(count)[:, None] < rare).float()}
    return Split({"features": torch.zeros(count, 1, 1)}, targets, overlap)


def yardsticks(train: Split, validation: Split, most: int = 8192) -> Yardsticks:
    data = Dataset(train, validation, 0, {}, "")
    return Yardsticks([TaskLoss(LEVEL), TaskLoss(RARE)], data, evenly_spaced(len(train), most))


def losses_of(by_sample: Tensor) -> Losses:
    """Losses [K, n] as an evaluation has them."""
    means = by_sample.mean(1).tolist()
    return Losses(means, means, [0.0] * len(means), by_sample)


@given(total=st.integers(1, 60), most=st.integers(1, 60), overlap=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_thinned_samples_overlap_less(total: int, most: int, overlap: int) -> None:
    """Of evenly spaced training samples fewer in a row share data: as many as their places say."""
    chosen = evenly_spaced(total, most).tolist()
    made = yardsticks(split(total, overlap), split(20, 3), most)
    sharing = [
        k - i
        for i, first in enumerate(chosen)
        for k, second in enumerate(chosen)
        if 0 <= second - first < overlap
    ]
    assert min(made.overlap["train"], len(chosen)) == max(sharing) + 1
    assert made.overlap["validation"] == 3


def test_each_split_says_what_it_cannot_tell() -> None:
    """Of each task on each split, on those samples that are measured."""
    made = yardsticks(split(40), split(40, rare=4))
    rare = (
        "it has 4 of the 5 samples that are needed with another target than the most frequent one"
    )
    assert made.unmeasurable == {"train": {}, "validation": {"rare": rare}}
    made = yardsticks(split(40), split(7))
    few = "it has 7 of the 8 samples that are needed"
    assert made.unmeasurable == {"train": {}, "validation": {"level": few, "rare": few}}
    made = yardsticks(split(40), split(40), most=10)  # of them, those below 9 are 0, 4 and 8
    remedy = ", of the 10 that are evaluated: raise train.evaluate"
    assert made.unmeasurable["train"] == {"rare": rare.replace("4 of", "3 of", 1) + remedy}
    assert made.unmeasurable["validation"] == {}
    made = yardsticks(split(40, overlap=9), split(40, overlap=8))
    assert made.unmeasurable["train"].keys() == {"level", "rare"}
    assert made.unmeasurable["validation"] == {}


@pytest.mark.parametrize("name", ["train", "validation"])
def test_skills_are_beside_the_strongest(name: str) -> None:
    """Of each split, with its overlap; none where the split cannot tell."""
    made = yardsticks(split(40, overlap=2), split(30, overlap=3, rare=2, seed=1))
    parts: dict[str, Any] = {"train": (40, 2), "validation": (30, 3)}
    count, overlap = parts[name]
    by_sample = torch.stack([draw(count, 5).flatten(), draw(count, 6).flatten()]).square().double()
    trivial = [base.by_sample[name] for base in made.baselines]
    assert made.trivial(name) == pytest.approx([each.mean().item() for each in trivial])
    level, rare = made.skills(name, losses_of(by_sample))
    assert level == measure_skill(by_sample[0], trivial[0], overlap)
    expected = measure_skill(by_sample[1], trivial[1], overlap)
    assert rare == (expected if name == "train" else None)


def test_a_skill_counts_samples_with_labels() -> None:
    """Of samples in a row that share data, as many count as have labels; a split with too few of
    them says so; equal labels cannot be told, wherever some are missing."""
    sparse = split(60, overlap=6, rare=9)
    sparse.targets["level"][torch.arange(60) % 3 != 1] = torch.nan
    sparse.targets["rare"][7:] = torch.nan
    tasks = [task(t.name, t.level, t.loss.kind, missing="skip") for t in (LEVEL, RARE)]
    losses = [TaskLoss(each) for each in tasks]
    made = Yardsticks(losses, Dataset(sparse, split(60), 0, {}, ""))
    level, rare = made.counted["train"]
    assert torch.equal(torch.as_tensor(level.samples), torch.arange(1, 60, 3))
    assert (level.share, level.overlap) == (20 / 60, 2)
    assert rare.overlap == 6
    assert made.unmeasurable["train"] == {"rare": "it has 7 of the 8 samples that are needed"}
    steps = task("level", "step", "mse", missing="skip")
    same = torch.where(draw(60) > 0, 1.0, torch.nan).view(12, 5, 1)
    one = Split({"features": torch.zeros(12, 5, 1)}, {"level": same})
    made = Yardsticks([TaskLoss(steps)], Dataset(one, one, 0, {}, ""))
    assert made.unmeasurable["train"] == {"level": "the target is the same in all its samples"}


def evaluated(count: int, **train: int) -> Tensor:
    spec = parse_spec(json.dumps(SMALL | {"seed": 3, "train": SMALL["train"] | train}))
    return train_samples(spec, count)


@pytest.mark.parametrize(
    ("count", "used"), [(7, 7), (256, 256), (300, 256), (2560, 256), (6000, 600), (10**6, 8192)]
)
def test_a_tenth_of_the_training_samples_is_evaluated(count: int, used: int) -> None:
    """At least 256 and at most 8192, one of each of equal stretches."""
    chosen = evaluated(count)
    bounds = torch.arange(used + 1) * count // used
    assert len(chosen) == used
    assert ((bounds[:-1] <= chosen) & (chosen < bounds[1:])).all()
    assert torch.equal(chosen, evaluated(count))


def test_a_stated_number_is_evenly_spaced() -> None:
    """As in older versions, whose specs state 8192."""
    assert torch.equal(evaluated(100, evaluate=8192), torch.arange(100))
    assert torch.equal(evaluated(10**5, evaluate=8192), evenly_spaced(10**5, 8192))


def test_evaluated_samples_have_no_period() -> None:
    """Of rows that come in turns, ten sensors, each one has its part of the evaluated samples."""
    by_sensor = (evaluated(20_000) % 10).bincount(minlength=10)
    assert by_sensor.sum() == 2000
    assert by_sensor.min() > 140


@pytest.mark.parametrize("trend", [0.0, 3.0], ids=["noise", "trend"])
@pytest.mark.parametrize("weigh", [False, True], ids=["even", "weights"])
def test_the_error_of_a_training_loss_is_that_of_its_samples(trend: float, weigh: bool) -> None:
    """Over many draws, the distance between the loss of the evaluated samples and that of the whole
    split is as large as the error says, in mean square; also where the losses rise along the split,
    or samples weigh differently."""
    count, used = 2000, 500
    each = draw(count, 1).flatten().double().square() + trend * torch.arange(count) / count
    given = 0.2 + draw(count, 2).flatten().abs() if weigh else torch.ones(count)
    split = Split({"x": torch.zeros(count, 1, 1)}, {"level": draw(count)}, 1, {"level": given})
    more: dict[str, Any] = {"sample_weight": "w"} if weigh else {}
    level = task("level", "window", "mse", **more)
    data = Dataset(split if weigh else replace(split, weights={}), split, 0, {}, "")
    whole = (each * given).sum() / given.sum()
    squares, said = [], []
    for seed in range(60):
        within = torch.rand(used, generator=torch.Generator().manual_seed(seed)) * (count // used)
        chosen = torch.arange(0, count, count // used) + within.long()
        made = Yardsticks([TaskLoss(level)], data, chosen)
        parts = (each * given)[chosen] * (used / given[chosen].sum())
        (error,) = made.train_errors(losses_of(parts[None]))
        assert error is not None
        squares.append((parts.mean() - whole).item() ** 2)
        said.append(error**2)
    assert 0.6 < fmean(squares) / fmean(said) < 1.6


def test_a_whole_split_has_no_such_error() -> None:
    """Nothing is left out."""
    made = yardsticks(split(40), split(40))
    assert made.train_errors(losses_of(torch.zeros(2, 40))) == [None, None]
