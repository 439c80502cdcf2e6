"""Dropout whose draws do not depend on how a batch is shared between ranks."""

from __future__ import annotations

from torch import Tensor, nn

from job.distributed.ranks import Share


class Dropout(nn.Dropout):
    """Dropout of a rank's rows of a batch, by the mask of the whole batch [B, …].

    So the values dropped, and the generator's state afterwards, do not depend on the number of
    ranks.
    """

    share: Share | None = None
    """This rank's part of the batch under way; None if this process has all of it."""

    def forward(self, values: Tensor) -> Tensor:
        """The values [b, …] of this rank's rows; some are dropped in training."""
        if self.share is None or not self.training:
            return super().forward(values)
        mask = super().forward(values.new_ones(self.share.of, *values.shape[1:]))
        return values * mask[self.share.rows]
