"""Skill and its error: beside their definitions, and beside what happens when samples are redrawn.

No test here asks for luck: every draw is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from job.model.skill import (
    CONFIDENCE,
    Skill,
    block_sums,
    measure_skill,
    student_t,
    unmeasurable,
)

Draw = Callable[[int], tuple[Tensor, Tensor]]
"""Seed → losses [n] and trivial losses [n]."""


# --- Student's t ------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_t_is_students(confidence: float) -> None:
    """From 1 to 1000 degrees of freedom, odd and even, it is scipy's quantile."""
    quantile = pytest.importorskip("scipy.stats").t.ppf
    for freedom in (*range(1, 41), *range(47, 1000, 53), 999, 1000):
        expected = quantile((1 + confidence) / 2, freedom)
        assert student_t(confidence, freedom) == pytest.approx(expected, rel=1e-9)


# --- the error --------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts torch's operations in a block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.count = 0

    def __torch_dispatch__(
        self, what: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        self.count += 1
        return what(*arguments, **(named or {}))


@pytest.mark.parametrize("overlap", [1, 7])
def test_the_operations_do_not_grow_with_the_samples(overlap: int) -> None:
    """Blocks are summed together: a million samples are not a million small tensors."""
    counts = []
    for samples in (100, 3000):
        with Operations() as operations:
            measure_skill(draw(samples, 0).abs(), draw(samples, 1).abs(), overlap)
        counts.append(operations.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("samples", "blocks"), [(12, 12), (12, 5), (50, 7), (9, 1)])
def test_blocks_are_torchs_split(samples: int, blocks: int) -> None:
    """Their sums are those of the parts into which torch splits a tensor."""
    values = draw(samples, 0)
    expected = torch.stack([part.sum() for part in values.tensor_split(blocks)])
    torch.testing.assert_close(block_sums(values, blocks), expected)


def draw(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def independent(seed: int, count: int = 60) -> tuple[Tensor, Tensor]:
    """Losses of samples that share nothing; those of one sample are alike. The skill is 0.3."""
    common, own = draw(count, 2 * seed).square(), draw(count, 2 * seed + 1).square()
    return 0.7 * (0.8 * common + 0.2 * own), common


def overlapping(seed: int, count: int = 400) -> tuple[Tensor, Tensor]:
    """Moving averages of such losses: fewer than 10 places apart, samples share some."""
    losses, trivial = independent(seed, count + 9)
    return losses.unfold(0, 10, 1).mean(1), trivial.unfold(0, 10, 1).mean(1)


def redrawn(draw: Draw, overlap: int, times: int) -> tuple[list[Skill], float]:
    """Skills measured on so many draws, and their standard deviation."""
    skills = [measure_skill(*draw(seed), overlap) for seed in range(times)]
    values = torch.tensor([skill.value for skill in skills], dtype=torch.float64)
    return skills, values.std().item()


def mean_error(skills: list[Skill]) -> float:
    return math.fsum(skill.error for skill in skills) / len(skills)


def coverage(skills: list[Skill], truth: float) -> float:
    """Share of the 95 % intervals, which are symmetric, that hold the true skill."""
    return sum(abs(s.value - truth) <= s.value - s.low for s in skills) / len(skills)


def test_beside_a_trivial_loss_that_never_varies() -> None:
    """The error is then that of a mean: s / √n, in units of the trivial loss; the interval is
    Student's with n − 1 degrees of freedom."""
    losses = draw(25, 0).exp()
    value, error, low = measure_skill(losses, torch.full_like(losses, 3.0), 1)
    assert value == pytest.approx(1 - losses.mean().item() / 3)
    assert error == pytest.approx(losses.std().item() / 5 / 3)
    assert low == pytest.approx(value - student_t(CONFIDENCE, 24) * error)


def test_is_that_of_a_ratio() -> None:
    """Cochran's eq. 6.13: the deviation of losses − ratio × trivial, over √n times the trivial."""
    losses, trivial = independent(0)
    value, error, _ = measure_skill(losses, trivial, 1)
    paired = losses - (1 - value) * trivial
    assert value == pytest.approx(1 - (losses.sum() / trivial.sum()).item())
    assert error == pytest.approx((paired.std() / 60**0.5 / trivial.mean()).item())


def test_what_is_trivial_has_no_error() -> None:
    """Losses in proportion to the trivial ones have a skill that is certain."""
    _, trivial = independent(0)
    value, error, low = measure_skill(trivial / 2, trivial, 1)
    assert [value, low] == pytest.approx([0.5, 0.5])
    assert error == pytest.approx(0, abs=1e-12)


def test_a_repeated_sample_tells_nothing_new() -> None:
    """Ten copies of each sample, which share their data, have the error of one of each."""
    losses, trivial = independent(0)
    order = (losses - (losses.sum() / trivial.sum()) * trivial).argsort()
    order = torch.stack([order[:30], order[30:].flip(0)], 1).flatten()  # neighbours are opposite
    losses, trivial = losses[order], trivial[order]
    once = measure_skill(losses, trivial, 1)
    copies = losses.repeat_interleave(10), trivial.repeat_interleave(10)
    assert measure_skill(*copies, 10).value == pytest.approx(once.value)
    assert once.error <= measure_skill(*copies, 10).error <= 1.05 * once.error
    assert measure_skill(*copies, 1).error < 0.4 * once.error


def test_is_the_spread_of_the_skill() -> None:
    """Over samples drawn 400 times, the mean error is the skill's deviation within 15 %, and the
    interval holds the true skill in 90 to 100 % of them."""
    skills, spread = redrawn(independent, 1, 400)
    assert mean_error(skills) == pytest.approx(spread, rel=0.15)
    assert 0.9 <= coverage(skills, 0.3) <= 1


@pytest.mark.parametrize(("blocks", "most"), [(5, 1.2), (12, 1.1), (40, 1.05)])
def test_is_the_spread_where_samples_overlap(blocks: int, most: float) -> None:
    """Over series drawn 1500 times, of as few groups without common data as can tell and of many,
    the error, as root mean square, is no smaller than the skill's deviation, but for what 1500
    draws leave unsure, and hardly larger; as of samples that share nothing, it is a fraction."""
    skills, spread = redrawn(lambda seed: overlapping(seed, 10 * blocks), 10, 1500)
    mean_square = math.fsum(skill.error**2 for skill in skills) / len(skills)
    assert 0.97 * spread <= mean_square**0.5 <= most * spread
    assert 0.9 <= coverage(skills, 0.3) <= 1
    alone, _ = redrawn(lambda seed: overlapping(seed, 10 * blocks), 1, 100)
    assert mean_error(alone) < 0.5 * spread


@pytest.mark.parametrize(
    ("loss", "trivial"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, 0.0), (0.0, 0.0)]
)
def test_a_skill_that_is_none(loss: float, trivial: float) -> None:
    """A loss that is not finite, or trivial losses of 0, give nothing that passes for a skill."""
    losses, base = torch.ones(20, dtype=torch.float64), torch.full((20,), trivial).double()
    losses[3:] = loss
    value, error, low = measure_skill(losses, base, 2)
    assert not math.isfinite(value)
    assert math.isnan(error)
    assert math.isnan(low)


# --- splits that cannot tell ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "overlap", "others", "why"),
    [
        (7, 1, 6, "it has 7 of the 8 samples that are needed"),
        (8, 1, 5, None),
        (1, 1, 0, "it has 1 of the 8 samples that are needed"),
        (
            2499,
            500,
            2000,
            "it has 2,499 samples, of which up to 500 in a row share data: "
            "4 of the 5 groups without common data that are needed",
        ),
        (2500, 500, 2000, None),
        (40, 1, 0, "the target is the same in all its samples"),
        (
            40,
            1,
            4,
            "it has 4 of the 5 samples that are needed with another target than the most "
            "frequent one",
        ),
        (40, 1, 5, None),
    ],
)
@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_when_a_split_cannot_tell(
    count: int, overlap: int, others: int, why: str | None, shape: tuple[int, ...]
) -> None:
    """Too few samples, too few that share nothing, or hardly a target that differs: in any of its
    elements."""
    target = torch.zeros(count, *shape)
    target.view(count, -1)[:others, -1] = 1 + torch.arange(others) % 2
    assert unmeasurable(target, overlap) == why
