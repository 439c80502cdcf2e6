"""Where the features of the training split lie, and how far they spread."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.data.shards.rows import Rows

Floats = NDArray[np.float64]

CHUNK, VALUES = 2**16, 2**22
"""Positions and values of features that are summed at a time, at most, in double precision."""
SORTED = 2**22
"""Values that are sorted for quartiles, about; the samples they come from are evenly spaced."""
TINY = 1e-6
"""A standard deviation below this part of the largest value is rounding of float32, no spread."""


class FeatureStats(NamedTuple):
    """Statistics [F] of each feature over samples and positions; missing values are left out."""

    mean: Floats
    deviation: Floats
    """Standard deviation."""
    low: Floats
    """Least value."""
    high: Floats
    """Greatest value."""
    quartiles: Floats
    """[3, F]: lower quartile, median, upper quartile."""
    missing: NDArray[np.int64]
    """Number of missing values."""
    empty: NDArray[np.bool_]
    """[F] true for a feature without any value."""

    @property
    def constant(self) -> NDArray[np.bool_]:
        """[F] true for a feature that never varies, but for rounding."""
        size = np.maximum(np.abs(self.low), np.abs(self.high))
        return np.asarray(self.deviation <= np.maximum(TINY * size, np.finfo("f4").tiny))

    @property
    def middle_half(self) -> Floats:
        """[F] interquartile ranges."""
        return np.asarray(self.quartiles[2] - self.quartiles[0])

    def notable(self, most: int = 8) -> list[int]:
        """The features to tell of: all, or if there are more than `most`, those with extremes.

        These are the ones with the smallest and the largest range, least and greatest value.
        """
        if len(self.mean) <= most:
            return list(range(len(self.mean)))
        width = self.high - self.low
        ends = (width.argmin(), width.argmax(), self.low.argmin(), self.high.argmax())
        return list(dict.fromkeys(map(int, ends)))


def measure_features(features: Tensor | Rows) -> FeatureStats:
    """Statistics of features [N, …, F]; a feature without any value counts as 0.

    Means and squares of chunks are joined as by Chan et al. (1979), in one pass over the data.
    """
    known, mean, squares = torch.zeros(3, features.shape[-1], dtype=torch.float64)
    low, high = torch.full_like(mean, torch.inf), torch.full_like(mean, -torch.inf)
    for chunk in _chunks(features):
        count, middle, spread, least, most = _of_chunk(chunk.double())
        both = (known + count).clamp(min=1)
        squares += spread + (middle - mean).square() * known * count / both
        mean += (middle - mean) * count / both
        known += count
        low, high = torch.minimum(low, least), torch.maximum(high, most)
    low, high = (torch.where(known > 0, x, 0.0) for x in (low, high))
    return FeatureStats(
        mean.numpy(),
        (squares / known.clamp(min=1)).sqrt().numpy(),
        low.numpy(),
        high.numpy(),
        _quartiles(features),
        (len(features) * prod(features.shape[1:-1]) - known).long().numpy(),
        (known == 0).numpy(),
    )


def _chunks(features: Tensor | Rows) -> Iterator[Tensor]:
    """The features [N, …, F] as [n, F], some positions after the others."""
    each = prod(features.shape[1:-1])
    size = max(1, min(CHUNK, VALUES // features.shape[-1]))
    for start in range(0, len(features) * each, size):
        end = min(start + size, len(features) * each)
        first = start // each
        part = features[first : -(-end // each)].flatten(0, -2)
        yield part[start - first * each : end - first * each]


def _of_chunk(chunk: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of values [M, F]: number, mean, sum of squared deviations, least and greatest [F]."""
    absent = chunk.isnan()
    some = bool(absent.any())
    count = (~absent).sum(0).double() if some else torch.full_like(chunk[0], len(chunk))
    least = (torch.where(absent, torch.inf, chunk) if some else chunk).amin(0)
    most = (torch.where(absent, -torch.inf, chunk) if some else chunk).amax(0)
    mean = (chunk.nansum(0) if some else chunk.sum(0)) / count.clamp(min=1)
    off = (chunk - mean).square_()
    return count, mean, off.nansum(0) if some else off.sum(0), least, most


def _quartiles(features: Tensor | Rows) -> Floats:
    """[3, F] quartiles of features [N, …, F], of evenly spaced samples."""
    per_sample = prod(features.shape[1:])
    step = max(1, len(features) * per_sample // max(SORTED, 1024 * per_sample))
    values = features[::step].flatten(0, -2).T.double().numpy()
    quartiles = [
        np.quantile(known, (0.25, 0.5, 0.75)) if len(known) else np.zeros(3)
        for known in (column[~np.isnan(column)] for column in values)
    ]
    return np.stack(quartiles, axis=1)
