"""Whether weights satisfy the condition that defines their method.

torchjd's solvers return their last guess, or leave a task out, without an error: NashMTL catches
its solver's, FairGrad ends at its last iteration, AlignedMTL drops small eigenvalues.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CONE_SLACK = 1e-6
"""Largest fall of ⟨g_k, u⟩ / |g_k| below 0 that counts as rounding, over Σ_j w_j |g_j|."""

SPREAD = 0.1
"""Largest relative difference between numbers that a method makes equal."""

GAP = 0.01
"""Largest gap of CAGrad's optimality, over |u| and the mean norm under its weights."""


def check(method: str, weighting: Any, gram: Tensor, weights: Tensor) -> None:
    """Raise ValueError if the weights [K] miss the method's condition on the Gram matrix [K, K].

    Both in float64. Methods without a condition here pass.
    """
    match method:
        case "UPGrad" | "DualProj":
            met = _in_dual_cone(gram, weights)
        case "NashMTL":
            reused = (weighting.step - 1) % weighting.update_weights_every != 0
            met = reused or _equal(weights * (gram @ weights))
        case "FairGrad":
            gain = gram @ weights
            met = weighting.alpha == 0 or _equal(gain * weights ** (1 / weighting.alpha))
        case "CAGrad":
            met = _cagrad_optimal(gram, weights, weighting.c)
        case "AlignedMTL":
            met = _rank(gram) >= _rank(_cosines(gram))
        case _:
            met = True
    if not met:
        raise ValueError(f"{method}'s weights miss its own condition")


def _in_dual_cone(gram: Tensor, weights: Tensor) -> bool:
    norms = gram.diagonal().sqrt()
    slack = CONE_SLACK * (weights.abs() @ norms)
    return bool((gram @ weights >= -slack * norms).all())


def _equal(numbers: Tensor) -> bool:
    lowest, highest = numbers.aminmax()
    return bool(lowest > 0 and highest - lowest <= SPREAD * highest)


def _cagrad_optimal(gram: Tensor, weights: Tensor, c: float) -> bool:
    """True if no task could gain more than the ones that g_w is made of: w minimizes its dual."""
    own = (weights - 1 / len(weights)).clamp(min=0)
    if c == 0 or not own.any():
        return True
    own = own / own.sum()
    gains = gram @ weights
    length = (weights @ gains).clamp(min=0).sqrt()
    mean_norm = own @ gram.diagonal().sqrt()
    return bool(own @ gains - gains.min() <= GAP * length * mean_norm)


def _rank(gram: Tensor) -> int:
    """The rank that torchjd sees in float32."""
    values = torch.linalg.eigvalsh(gram.float())
    return int((values > values.max() * len(gram) * torch.finfo(values.dtype).eps).sum())


def _cosines(gram: Tensor) -> Tensor:
    norms = gram.diagonal().sqrt()
    return gram / torch.outer(norms, norms)
