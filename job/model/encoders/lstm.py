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
        order = _real_first(real).unsqueeze(-1)
        if torch.compiler.is_exporting():
            z = self._exported(x.gather(1, order.expand_as(x)), real.sum(1))
            return torch.zeros_like(z).scatter(1, order.expand_as(z), z)
        lengths = real.sum(1).cpu()  # pack_padded_sequence reads them on the host
        packed = pack_padded_sequence(
            x.gather(1, order.expand_as(x)), lengths, batch_first=True, enforce_sorted=False
        )
        z, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return torch.zeros_like(z).scatter(1, order.expand_as(z), z)

    def _exported(self, x: Tensor, lengths: Tensor) -> Tensor:
        """z [B, P, D] of the first `lengths` [B] positions of x, 0 behind them, without packing.

        The sizes of what is packed depend on the numbers, which no exported program allows. Here
        each direction reads all positions, the real ones first: the others change nothing before
        them.
        """
        places = torch.arange(x.shape[1], device=x.device)
        real = places < lengths.unsqueeze(1)
        backward = torch.where(real, lengths.unsqueeze(1) - 1 - places, places).unsqueeze(-1)
        for layer in range(self.lstm.num_layers):
            forth = self._one_direction(x, f"l{layer}")
            if self.lstm.bidirectional:
                turned = x.gather(1, backward.expand_as(x))
                back = self._one_direction(turned, f"l{layer}_reverse")
                forth = torch.cat([forth, back.gather(1, backward.expand_as(back))], -1)
            x = forth
        return torch.where(real.unsqueeze(-1), x, 0.0)

    def _one_direction(self, x: Tensor, which: str) -> Tensor:
        """Hidden states [B, P, H] of a layer in one direction; which: the end of weights' names."""
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self.lstm, f"{kind}_{which}") for kind in kinds]
        rows = x.shape[0]  # len(x) would be a constant of the exported network
        start = x.new_zeros(1, rows, self.lstm.hidden_size)
        return torch.lstm(x, (start, start), weights, True, 1, 0.0, False, False, True)[0]


def _real_first(real: Tensor) -> Tensor:
    """[B, P] the positions of each sample, the real ones first, both in their order.

    A mask may have gaps. This is a stable argsort of ~real, by operations that ONNX has.
    """
    behind = real.sum(1, keepdim=True) + (~real).cumsum(1)
    places = torch.where(real, real.cumsum(1), behind) - 1
    each = torch.arange(real.shape[1], device=real.device).expand_as(places)
    return torch.zeros_like(places).scatter(1, places, each)
