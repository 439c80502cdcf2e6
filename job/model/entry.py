"""The entry of a built-in network: named inputs, scaled or embedded, joined at each position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from job.data.encoding.input_info import MASK, InputInfo
from job.model.network import Inputs
from job.model.scaling import Scaling

WIDEST = 64
"""Features of an embedding, at most."""
SMALL = 0.1
"""Standard deviation of an embedding's numbers at the start."""


class Embedding(nn.Module):
    """A trained vector for each code of each of F features; their vectors stand side by side.

    A feature with n codes has vectors of 1.6 n^0.56 numbers, as in fastai (Howard and Gugger 2020),
    and at most `WIDEST`. They start small, so that a network sees the other inputs too, and at 0
    for the last code, which is of what training lacks.
    """

    def __init__(self, codes: Sequence[int]) -> None:
        super().__init__()
        widths = [min(WIDEST, round(1.6 * n**0.56)) for n in codes]
        each = [nn.Embedding(n, w) for n, w in zip(codes, widths, strict=True)]
        for embedding in each:
            embedding.weight.data *= SMALL
            embedding.weight.data[-1] = 0
        self.by_feature = nn.ModuleList(each)
        self.width = sum(widths)
        """Features that come out."""

    def forward(self, codes: Tensor) -> Tensor:
        """Codes [B, …, F] → vectors [B, …, W]."""
        columns = codes.long().unbind(-1)
        return torch.cat([f(c) for f, c in zip(self.by_feature, columns, strict=True)], -1)


Part = Scaling | Embedding


class Entry(nn.Module):
    """Scalings and embeddings of the inputs, by name.

    shapes: of a sample [*P, F], by input. indicated: by input, its features that have another one
    beside them, which says where they are missing. apart: inputs of a single position stay apart;
    else they are repeated at the others' positions.
    """

    def __init__(
        self,
        inputs: Mapping[str, InputInfo],
        shapes: Mapping[str, Sequence[int]],
        indicated: Mapping[str, Sequence[int]],
        apart: bool = False,
    ) -> None:
        super().__init__()
        made = {
            name: Embedding(about.codes)
            if about.codes
            else Scaling(shapes[name][-1], indicated.get(name, ()))
            for name, about in inputs.items()
        }
        # The prefix avoids clashes with attributes of nn.Module.
        self.by_input = nn.ModuleDict({f"input_{name}": part for name, part in made.items()})
        self.names = list(inputs)
        positions = {name: tuple(shapes[name][:-1]) for name in inputs}
        self.positions = max(positions.values(), key=lambda p: (prod(p), len(p)))
        alone = [name for name in inputs if positions[name] != self.positions]
        self.apart = set(alone) if apart else set()
        self.width = sum(made[name].width for name in inputs if name not in self.apart)
        """Features that come out at each position."""
        self.width_apart = sum(made[name].width for name in self.apart)
        """Features that come out apart."""

    @property
    def scalings(self) -> dict[str, Scaling]:
        """Of each input of numbers."""
        parts = zip(self.names, self.by_input.values(), strict=True)
        return {name: part for name, part in parts if isinstance(part, Scaling)}

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Inputs [B, …, F] → [B, *P, W], and [B, W'] of those that stay apart, if some do.

        At padding, which MASK [B, …] says among the inputs, all is 0.
        """
        made = {name: self.by_input[f"input_{name}"](inputs[name]) for name in self.names}
        each = [tuple(x.shape[1:-1]) for x in made.values()]
        sizes = [(prod(positions), len(positions)) for positions in each]
        most = each[sizes.index(max(sizes))]
        here = [_spread(x, most) for name, x in made.items() if name not in self.apart]
        joined = here[0] if len(here) == 1 else torch.cat(here, -1)
        if MASK in inputs:
            joined = torch.where(inputs[MASK].unsqueeze(-1), joined, 0.0)
        there = [x.flatten(1) for name, x in made.items() if name in self.apart]
        return joined, torch.cat(there, -1) if there else None


def _spread(x: Tensor, positions: tuple[int, ...]) -> Tensor:
    """[B, *positions, W] of x, which has these positions or a single one."""
    if x.shape[1:-1] == positions:
        return x
    rows = x.shape[0]  # len(x) would be a constant of an exported network
    return x.reshape(rows, *(1 for _ in positions), -1).expand(rows, *positions, x.shape[-1])
