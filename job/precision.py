"""What low precision needs: a flag for values that overflowed, and a loss scale against it."""

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

    Halved when a gradient overflows, doubled after 2 000 steps without one. torch's GradScaler
    keeps its overflow flag to itself, and the step needs it beside the halt.
    """

    scale: Tensor
    streak: Tensor

    def __init__(self, initial: float = 2.0**16) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(initial))
        self.register_buffer("streak", torch.tensor(0))

    def update(self, overflow: Tensor) -> None:
        """Take in whether this step overflowed (0-dim bool)."""
        self.streak.copy_(torch.where(overflow, 0, self.streak + 1))
        grown = torch.where(self.streak % 2000 == 0, self.scale * 2, self.scale)
        self.scale.copy_(torch.where(overflow, self.scale / 2, grown))
