"""The scaling of the features at the entry of the network; its buffers are part of a run's state.

So the network takes features as the data has them, in training as when it predicts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from job.data.encoding.feature_stats import FeatureStats


class Scaling(nn.Module):
    """Brings each of F features to a common scale: scaled = (feature − shift) / scale.

    shift, scale, fill [F]: 0, 1 and 0 until they are fitted. A constant feature has an infinite
    scale, and becomes 0 whatever its value. A missing value (NaN) becomes `fill` before. Behind
    the F scaled features stands, for each of `indicated` [I], one that is 1 where it is missing,
    else 0.
    """

    shift: Tensor
    scale: Tensor
    fill: Tensor
    indicated: Tensor

    def __init__(self, features: int, indicated: Sequence[int] = ()) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("fill", torch.zeros(features))
        self.register_buffer("indicated", torch.tensor(indicated, dtype=torch.int64))
        self.width = features + len(indicated)
        """Features that come out."""
        self.may_miss = False

    def fit(
        self,
        kind: str,
        stats: FeatureStats,
        whole: float = 1.0,
        flags: Sequence[bool] = (),
        may_miss: bool = False,
    ) -> None:
        """Fit to the statistics of the training split.

        flags [F]: true for a feature that stays as it is; () for none. may_miss: values may be
        missing, and become the mean.
        kind: `standardize` for mean 0 and standard deviation 1; `robust` for median 0 and
        interquartile range 1, or the standard deviation where that range is none; `none` to divide
        by `whole` alone, the value that means 1 (255 in images of bytes).
        """
        self.may_miss = may_miss
        self.fill.copy_(torch.from_numpy(stats.mean))
        if kind == "none":
            self.scale.fill_(whole)
            return
        shift, spread = stats.mean, stats.deviation
        if kind == "robust":
            middle = stats.middle_half
            shift = stats.quartiles[1]
            spread = np.where(middle > 1e-6 * spread, middle, spread)
        self.shift.copy_(torch.from_numpy(shift))
        self.scale.copy_(torch.from_numpy(np.where(stats.constant, np.inf, spread)))
        kept = torch.tensor(flags, dtype=torch.bool, device=self.scale.device)
        if len(kept):
            self.shift[kept], self.scale[kept] = 0.0, 1.0

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, …, F] as the data has them → scaled [B, …, F + I]."""
        if not self.may_miss:
            return (features - self.shift) / self.scale
        missing = features.isnan()
        scaled = (torch.where(missing, self.fill, features) - self.shift) / self.scale
        return torch.cat([scaled, missing[..., self.indicated].to(scaled.dtype)], -1)
