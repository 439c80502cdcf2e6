"""Backpropagation that begins with gradients which are known."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.autograd.graph import _engine_run_backward

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Tensors with their graphs, and the gradient at each, of its shape and type."""


def backward_from(pairs: Pairs) -> None:
    """Add to `.grad` of every leaf below, as `torch.autograd.backward(tensors, gradients)` does.

    That one first imports the algebra of PyTorch's compiler, which makes every start 1 s longer;
    this is the call at its end.
    """
    tensors, gradients = zip(*pairs, strict=True)
    _engine_run_backward(
        tensors, gradients, False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def gradients_from(pairs: Pairs, at: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient at each of some tensors below, None where there is none; keeps the graph."""
    tensors, gradients = zip(*pairs, strict=True)
    return _engine_run_backward(
        tensors, gradients, True, False, tuple(at), allow_unreachable=True, accumulate_grad=False
    )
