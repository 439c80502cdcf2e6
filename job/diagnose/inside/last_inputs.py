"""What the last linear map of each task reads, in whatever network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from job.model.built_in import BuiltIn
from job.model.deep import Deep
from job.model.network import Inputs, Network


def last_inputs(model: Network, inputs: Inputs) -> tuple[list[Tensor], Sequence[Tensor | None]]:
    """The outputs of a batch, and what the last linear map of each task reads.

    That is [B, D], or [B, P, D] of a step task; None if the outputs are not, number for number,
    those of an nn.Linear, as behind a sigmoid or where several tasks share one map.
    """
    if isinstance(model, BuiltIn | Deep):
        return model(inputs), model.last_inputs(model.represent(inputs), inputs)
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        calls.append((args[0], output))

    hooks = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        with torch.no_grad():
            outputs = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, [_read(y, calls) for y in outputs]


def _read(outputs: Tensor, calls: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    """The input of the call that made these outputs, in their shape but for the last axis."""
    for read, made in reversed(calls):
        same = made.data_ptr() == outputs.data_ptr() and made.numel() == outputs.numel()
        if same and made.shape[-1] == outputs.shape[-1]:
            return read.reshape(*outputs.shape[:-1], read.shape[-1])
    return None
