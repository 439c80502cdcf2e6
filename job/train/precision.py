"""For low precision: a flag for values that overflow, and a loss scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def flag_not_finite(tensors: list[Tensor], flag: Tensor, factor: Tensor) -> None:
    """Set the flag (0-dim) to 1 if any value is not finite; multiply all by the factor, in place.

    The kernel of torch's GradScaler: one pass, and nothing waits for the device.
    """
    torch._amp_foreach_non_finite_check_and_unscale_(tensors, flag, factor)


class LossScale(nn.Module):
    """Dynamic loss scale for fp16 (Micikevicius et al. 2018, §3.2).

    It is halved when a gradient overflows, and doubled after 2 000 steps without an overflow.
    torch's GradScaler keeps its overflow flag private, but a step needs it to decide on a halt.
    """

    scale: Tensor
    streak: Tensor

    def __init__(self, initial: float = 2.0**16) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(initial))
        self.register_buffer("streak", torch.tensor(0))

    def update(self, overflow: Tensor) -> None:
        """Halve or double the scale; overflow: 0-dim bool, true if this step overflowed."""
        self.streak.copy_(torch.where(overflow, 0, self.streak + 1))
        grown = torch.where(self.streak % 2000 == 0, self.scale * 2, self.scale)
        self.scale.copy_(torch.where(overflow, self.scale / 2, grown))
