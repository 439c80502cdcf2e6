"""Builds the balancer that a spec asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from job import spec
from job.balance.base import Balancer
from job.balance.catalog import is_scalarizer
from job.balance.fixed import BatchMean, Fixed, RunningMean
from job.balance.gradient_norm import GradientNorm
from job.balance.gradnorm import GradNorm
from job.balance.scalarizer import Scalarizer
from job.balance.torchjd import TorchJD
from job.balance.uncertainty import Uncertainty


def build_balancer(balance: spec.Balance, tasks: Sequence[str], sizes: Sequence[int]) -> Balancer:
    """The balancer that a spec asks for.

    tasks: names, in the order of every [K] tensor. sizes: number of output values per sample of
    each task, such as 105 for one value at each of 105 steps.

    Raises InputError if torchjd, its method or its options do not exist, and ValueError if there
    are not as many sizes as tasks.
    """
    if len(tasks) != len(sizes):
        raise ValueError(f"{len(tasks)} tasks but {len(sizes)} sizes")
    if isinstance(balance, spec.TorchJD):
        kind = Scalarizer if is_scalarizer(balance.method) else TorchJD
        return kind(balance.method, balance.options, len(tasks))
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
        case spec.GradNorm():
            return GradNorm(weights, balance.alpha, balance.lr)
        case _:
            assert_never(balance)
