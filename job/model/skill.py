"""Skill: how much better than a prediction that ignores the input, and how sure that is."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

CONFIDENCE = 0.95
"""Of the interval around a skill."""
MOST_FREEDOM = 1000
"""Degrees of freedom from which on t is the same within 0.1 %, and is not computed anew."""


LEAST_SAMPLES = 8
"""Of a split that can tell a skill."""
LEAST_BLOCKS = 5
"""Groups of samples without common data that such a split holds."""
LEAST_OTHERS = 5
"""Samples of such a split whose target differs from the most frequent one."""


class Skill(NamedTuple):
    """A skill, 1 − loss / trivial loss, measured on n samples."""

    value: float
    error: float
    """Its standard error."""
    low: float
    """Lower end of its 95 % interval (Student's t)."""


def measure_skill(losses: Tensor, trivial: Tensor, overlap: int) -> Skill:
    """The skill of predictions with `losses` [n] beside trivial ones with losses `trivial` [n].

    A ratio of two means; its standard error is that of the mean paired difference losses − ratio ×
    trivial, over the trivial loss (Cochran 1977, Sampling Techniques, eq. 6.13). Samples fewer than
    `overlap` places apart share data (see `_error`). Not a number if a loss is not finite or the
    trivial ones are 0. n must be at least 3 overlaps.
    """
    count = len(losses) // overlap
    error = _error(_paired(losses, trivial), overlap)
    value = 1 - (losses.mean() / trivial.mean()).item()
    return Skill(value, error, value - student_t(CONFIDENCE, min(count - 1, MOST_FREEDOM)) * error)


class Rise(NamedTuple):
    """What a second set of predictions adds to the skill of a first one, on the same n samples."""

    value: float
    error: float
    """Its standard error."""


def measure_rise(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], overlap: int) -> Rise:
    """The difference of two skills from the pairs (losses, trivial) [n] of each.

    The error is that of the difference sample by sample, so what both find hard cancels out.
    """
    was, now = (1 - (losses.mean() / trivial.mean()).item() for losses, trivial in (before, after))
    return Rise(now - was, _error(_paired(*after) - _paired(*before), overlap))


def _paired(losses: Tensor, trivial: Tensor) -> Tensor:
    """What each sample [n] gives to the difference of a skill from its expectation, negative."""
    base = trivial.mean()
    return (losses - losses.mean() / base * trivial) / (base * len(losses))


def _error(paired: Tensor, overlap: int) -> float:
    """The standard error of the sum of differences [n].

    They are summed over blocks of at least `overlap` samples, of which only neighbours are
    correlated; that covariance counts where it is positive.
    """
    count = len(paired) // overlap
    blocks = block_sums(paired, count)
    variance = blocks.square().sum()
    if overlap > 1:
        variance += 2 * (blocks[1:] * blocks[:-1]).sum().clamp(min=0)
    # The differences add up to 0, which makes the squares too small by 1 part in `count`; and the
    # squares with the products of neighbours by 3 count - 2 parts in count².
    parts = (count - 1) / count if overlap == 1 else (count - 1) * (count - 2) / count**2
    return (variance / parts).sqrt().item()


def block_sums(values: Tensor, count: int) -> Tensor:
    """The sums [count] of consecutive blocks of values [n], whose sizes differ by at most one."""
    size, longer = divmod(len(values), count)
    cut = longer * (size + 1)
    first, rest = values[:cut].view(longer, size + 1), values[cut:].view(count - longer, size)
    return torch.cat([first.sum(1), rest.sum(1)])


def unmeasurable(target: Tensor, overlap: int) -> str | None:
    """Why a split cannot tell a skill; None if it can.

    target: [N, …] of its samples that have labels. overlap: as for `measure_skill`.
    """
    count = len(target)
    if count < LEAST_SAMPLES:
        return f"it has {count} of the {LEAST_SAMPLES} samples that are needed"
    rows = Counter(row.tobytes() for row in target.reshape(count, -1).numpy())
    others = count - max(rows.values())
    if count // overlap < LEAST_BLOCKS:
        return (
            f"it has {count:,} samples, of which up to {overlap:,} in a row share data: "
            f"{count // overlap} of the {LEAST_BLOCKS} groups without common data that are needed"
        )
    if others == 0:
        return "the target is the same in all its samples"
    if others < LEAST_OTHERS:
        return (
            f"it has {others} of the {LEAST_OTHERS} samples that are needed with another target "
            "than the most frequent one"
        )
    return None


@cache
def student_t(confidence: float, freedom: int) -> float:
    """The t within whose ± Student's distribution holds a share `confidence`, by bisection."""
    low, high = 0.0, 1.0
    while _share_within(high, freedom) < confidence:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if _share_within(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return high


def _share_within(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom (Abramowitz and Stegun 1964, eq. 26.7.3 and 4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
