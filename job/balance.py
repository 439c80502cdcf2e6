"""Weights of the tasks from their losses and the Gram matrix of their gradients.

Weights act on the shared trunk. On parameters that one task owns, AdamW cancels any constant one.
To add a balancer: its section in job/spec.py's Balance, its class here, its case in `make`;
tests/test_balance.py then covers it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import assert_never

import torch
from torch import Tensor, nn

from job import spec

TINY = 1e-8
"""Smallest number that a weight is divided by; a loss of 0 then has a weight of 1e8 at most."""
LARGEST_LOG = 10.0
"""How far from 0 a learned log variance may be."""


class Balancer(nn.Module):
    """Weights from losses and the Gram matrix.

    All state that a resume needs is in buffers and parameters of fixed shapes, so `state_dict()`
    holds tensors alone.
    """

    signed = False
    """Whether weights may be negative."""
    weighs_heads = True
    """Whether the weights act on the heads' own gradients too, as in a weighted sum of losses."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.tasks = tasks

    def forward(self, losses: Tensor, gram: Tensor) -> Tensor:
        """Weights [K], detached, on the device of the losses; takes one step of the state.

        losses: [K] float32, detached, in transformed units. gram: [K, K] float32, detached,
        ⟨g_s, g_t⟩ of the unweighted tasks' gradients at the shared representation. Both finite:
        values are not checked here, that would stall CUDA at every step.

        Raises ValueError where a shape is not that of this balancer's tasks.
        """
        k = self.tasks
        if losses.shape != (k,) or gram.shape != (k, k):
            raise ValueError(
                f"losses {list(losses.shape)} and Gram matrix {list(gram.shape)} given to a "
                f"balancer of {k} tasks; it needs [{k}] and [{k}, {k}]"
            )
        with torch.no_grad():
            return self.weigh(losses, gram)

    @abstractmethod
    def weigh(self, losses: Tensor, gram: Tensor) -> Tensor:
        """What `forward` does once the shapes are known to be right; no gradient is recorded."""

    def objective(self, losses: Tensor) -> Tensor | None:
        """A scalar whose gradient trains the balancer's own parameters; None where it has none.

        losses: [K], detached.
        """
        return None


class Fixed(Balancer):
    """A plain weighted sum."""

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(len(weights))
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

    def weigh(self, losses: Tensor, gram: Tensor) -> Tensor:
        """The weights set by hand."""
        return self.weights.clone()


class RunningMean(Fixed):
    """w_k / m_k, with m_k the running mean of the loss: the normalizer of the failing trainer.

    m = (L_1 + … + L_n) / n over the first `warmup` steps (at least one), afterwards
    m ← momentum·m + (1 − momentum)·L. The step's own loss is in the mean before it divides, as it
    was in that trainer. A loss times 1000 gets its weight by 1000; what the target's scale does to
    the gradient beyond that stays.
    """

    mean: Tensor
    steps: Tensor

    def __init__(self, weights: Sequence[float], momentum: float, warmup: int) -> None:
        super().__init__(weights)
        self.momentum, self.warmup = momentum, warmup
        self.register_buffer("mean", torch.zeros(self.tasks))
        self.register_buffer("steps", torch.tensor(0))

    def weigh(self, losses: Tensor, gram: Tensor) -> Tensor:
        """The weights set by hand over the running means."""
        self.steps += 1
        warming = self.steps <= max(self.warmup, 1)
        kept = torch.where(warming, 1 - 1 / self.steps, self.momentum)
        self.mean.copy_(kept * self.mean + (1 - kept) * losses)
        return self.weights / self.mean.clamp(min=TINY)


class BatchMean(Fixed):
    """w_k / L_k with L_k the loss of this batch, held constant: the gradient of Σ w_k log L_k.

    The published form of this fix divided a loss that was detached already by itself: a constant,
    without any gradient, so nothing was trained. This is what it meant.
    """

    def weigh(self, losses: Tensor, gram: Tensor) -> Tensor:
        """The weights set by hand over the losses."""
        return self.weights / losses.clamp(min=TINY)


class Uncertainty(Fixed):
    """Learned homoscedastic uncertainty (Kendall, Gal and Cipolla 2018, equation 7).

    objective = Σ w_k (½ exp(−s_k) L_k + ½ s_k) over the log variances s, so task k weighs
    w_k ½ exp(−s_k). At rest exp(s_k) = L_k: the weight is w_k / (2 L_k), the loss normalised,
    and learned. The objective has no lower bound once a loss reaches 0, so s stays within ±10.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(weights)
        self.log_variance = nn.Parameter(torch.zeros(self.tasks))

    def weigh(self, losses: Tensor, gram: Tensor) -> Tensor:
        """The factors of the losses in the objective; brings s back into its bounds."""
        self.log_variance.clamp_(-LARGEST_LOG, LARGEST_LOG)
        return self.weights * 0.5 * torch.exp(-self.log_variance)

    def objective(self, losses: Tensor) -> Tensor:
        """The objective above, for the gradient of s."""
        s = self.log_variance
        return (self.weights * 0.5 * (torch.exp(-s) * losses.detach() + s)).sum()


class GradientNorm(Fixed):
    """Equal gradient norms at the shared representation.

    n_k is the bias-corrected running mean of task k's gradient norm, over the steps at which it
    was not 0 (momentum 0: the norm of this step). The weight is w_k n̄ / n_k, n̄ the mean of the
    n_k: with equal w_k all weighted norms are n̄. A task that never had a gradient keeps w_k and
    has no part in n̄. No norm counts as smaller than 1e-8 n̄.
    """

    norm: Tensor
    steps: Tensor

    def __init__(self, weights: Sequence[float], momentum: float) -> None:
        super().__init__(weights)
        self.momentum = momentum
        self.log_momentum = math.log(momentum) if momentum > 0 else -math.inf
        self.register_buffer("norm", torch.zeros(self.tasks))
        self.register_buffer("steps", torch.zeros(self.tasks, dtype=torch.int64))

    def weigh(self, losses: Tensor, gram: Tensor) -> Tensor:
        """The weights set by hand over the running means of the norms, times their mean."""
        norm = gram.diagonal().clamp(min=0).sqrt()
        moved = self.momentum * self.norm + (1 - self.momentum) * norm
        self.norm.copy_(torch.where(norm > 0, moved, self.norm))
        self.steps += norm > 0
        known = self.steps > 0
        # In float32, 1 − momentum^steps would be 0 for a momentum near 1.
        seen = -torch.expm1(self.steps.double() * self.log_momentum)
        n = self.norm / torch.where(known, seen, 1.0).to(self.norm.dtype)
        mean = n.sum() / known.sum().clamp(min=1)
        return self.weights * torch.where(known, mean / torch.maximum(n, TINY * mean), 1.0)


def make(balance: spec.Balance, tasks: Sequence[str], sizes: Sequence[int]) -> Balancer:
    """The balancer that a spec asks for.

    tasks: names, in the order of every [K] tensor. sizes: output values per sample of each task,
    e.g. 105 for one value at each of 105 steps.

    Raises InputError where torchjd is missing, or its method or options do not exist; ValueError
    where tasks and sizes are not of one length.
    """
    if len(tasks) != len(sizes):
        raise ValueError(f"{len(tasks)} tasks but {len(sizes)} sizes")
    if isinstance(balance, spec.TorchJD):
        from job.balance_torchjd import TorchJD  # builds on this module

        return TorchJD(balance.method, balance.options, len(tasks))
    weights = [balance.weights.get(task, 1.0) for task in tasks]
    match balance:
        case spec.Fixed():
            return Fixed(weights)
        case spec.RunningMean():
            return RunningMean(weights, balance.momentum, balance.warmup)
        case spec.RunningMeanSqrtN():
            grown = [w * size**0.5 for w, size in zip(weights, sizes, strict=True)]
            return RunningMean(grown, balance.momentum, balance.warmup)
        case spec.BatchMean():
            return BatchMean(weights)
        case spec.Uncertainty():
            return Uncertainty(weights)
        case spec.GradientNorm():
            return GradientNorm(weights, balance.momentum)
        case _:
            assert_never(balance)
