"""All that a training is made of: network, losses, step and optimizer, of a spec and its data."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from job.data.dataset import Dataset
from job.distributed.ranks import ALONE, Ranks
from job.model.built_in import BuiltIn
from job.model.deep import Deep
from job.model.losses import TaskLoss
from job.model.network import Network
from job.model.start.frozen import freeze
from job.model.start.pretrained import Source, begin_with
from job.spec import JobSpec, Python
from job.train.build.balancer import balancer
from job.train.build.compiled import check_cut, compiled
from job.train.build.losses import task_losses
from job.train.build.network import build_network
from job.train.gradients.ownership import Ownership, ownership
from job.train.step import Stepper
from job.train.updates import optimizer

SOME = 32
"""Samples that show what the network's outputs depend on."""


class Parts(NamedTuple):
    """The parts of a training, at its start."""

    model: BuiltIn | Deep
    """One's own network has another type; nothing reads more of it than every network has."""
    losses: list[TaskLoss]
    known: Ownership
    stepper: Stepper
    optimizer: torch.optim.Optimizer
    pretrained: list[str]
    """Tensors that the network began with, by name."""


def build_parts(spec: JobSpec, data: Dataset, device: torch.device, ranks: Ranks = ALONE) -> Parts:
    """Build them from the spec's seed. Raises InputError with what of the spec does not fit."""
    torch.manual_seed(spec.seed)
    model = build_network(spec, data)
    losses = task_losses(spec, data)
    for loss in losses:
        if isinstance(spec.model, Python) or spec.model.init.heads == "target_mean":
            target = data.train.targets[loss.task.name]
            weights = loss.weights(target, data.train.weights.get(loss.task.name))
            model.start_at(loss.task.name, loss.mean_output(target, weights))
    pretrained = _begin(spec, data, model)
    freeze(model, spec.model.freeze)
    if spec.model.start_from is not None:
        freeze(model, spec.model.start_from.freeze, "$.model.start_from.freeze")
    train, own = spec.train, balancer(spec, data)
    model = model.to(device)
    known = ownership(model, _some_inputs(spec, data, device), ranks)
    if train.compile:
        check_cut(known)
    stepper = Stepper(
        *(model, known, losses, own, train.clip, train.precision),
        ranks=ranks,
        every=spec.log.ledger_every,
        accumulate=train.accumulate.weights if train.accumulate else None,
        compiled=compiled(model) if train.compile else None,
    ).to(device)
    update = optimizer.build_optimizer(spec.optimizer, spec.balance, stepper)
    return Parts(cast(BuiltIn | Deep, model), losses, known, stepper, update, pretrained)


def _begin(spec: JobSpec, data: Dataset, model: Network) -> list[str]:
    """Put the tensors into the network that it begins with; returns their names.

    A run's are there only where this training begins, and is not resumed.
    """
    weights, start = spec.model.weights, spec.model.start_from
    if weights is not None:
        source = Source("$.model.weights", "path", "file", weights.path)
        return begin_with(model, weights.parts, data.pretrained, source)
    if start is not None and data.pretrained:
        source = Source("$.model.start_from", "run", "run", f"run {start.run}")
        return begin_with(model, start.patterns, data.pretrained, source)
    return []


def check_parts(spec: JobSpec, data: Dataset) -> None:
    """Raise InputError unless they can be built, here on the CPU; no generator moves."""
    with torch.random.fork_rng(devices=[]):
        made = build_parts(spec.uncompiled, data, torch.device("cpu"))
    if spec.train.compile:
        check_cut(made.known)


def _some_inputs(spec: JobSpec, data: Dataset, device: torch.device) -> dict[str, Tensor]:
    """Inputs of a few training samples, on the device."""
    few = min(len(data.train), spec.train.batch_size, SOME)
    return data.train.inputs_of(torch.arange(few), device)
