"""An LSTM over the positions of a sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from job import spec


class Lstm(nn.Module):
    """Hidden states of an LSTM, of both directions if the spec says so."""

    keeps_positions = True

    def __init__(self, model: spec.Lstm, features: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            features,
            model.hidden,
            model.layers,
            batch_first=True,
            bidirectional=model.bidirectional,
        )
        self.width = model.hidden * (2 if model.bidirectional else 1)
        if model.init.lstm == "orthogonal":
            self._orthogonal(model.hidden)

    def _orthogonal(self, hidden: int) -> None:
        """Set orthogonal gates (Saxe et al. 2014), forget biases of 1 (Jozefowicz et al. 2015)."""
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight"):
                for gate in parameter.data.split(hidden):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(parameter)
                if name.startswith("bias_ih"):
                    nn.init.ones_(parameter.data[hidden : 2 * hidden])

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """Features [B, …, F] → z [B, P, D]; real [B, P]: false at padding, which is not read."""
        x = x.flatten(1, -2)
        z: Tensor = self.lstm(x)[0] if real is None else self._of_real(x, real)
        return z

    def _of_real(self, x: Tensor, real: Tensor) -> Tensor:
        """z [B, P, D] of the positions that are `real`, as if there were no others; 0 at those."""
        # Real positions first, in their order: a mask may have gaps.
        order = (~real).int().argsort(dim=1, stable=True).unsqueeze(-1)
        lengths = real.sum(1).cpu()  # pack_padded_sequence reads them on the host
        packed = pack_padded_sequence(
            x.gather(1, order.expand_as(x)), lengths, batch_first=True, enforce_sorted=False
        )
        z, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return torch.zeros_like(z).scatter(1, order.expand_as(z), z)
