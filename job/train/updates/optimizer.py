"""The spec's optimizer, with a learning rate for each part of the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from job import spec
from job.errors import Fault, InputError
from job.model.start.names import matched
from job.train.step import Stepper
from job.train.updates.kinds import Adam, AdamW, Group, MuonAndAdamW, Sgd


def build_optimizer(
    optimizer: spec.Optimizer, balance: spec.Balance, stepper: Stepper
) -> torch.optim.Optimizer:
    """The optimizer of trunk, heads and the balancer's own parameters, as groups in that order.

    It is fused, as only then a flag on the device can make it skip an update. Raises InputError if
    a pattern of `optimizer.rates` matches nothing, or if there is nothing for Muon.
    """
    groups = list(_groups(optimizer, balance, stepper))
    built = _build(optimizer, groups)
    for group in built.param_groups:
        for p in group["params"]:
            # As the first step would make them, so that a state has all tensors from the start.
            moments = {name: torch.zeros_like(p) for name in _moments(optimizer, group)}
            if "exp_avg" in moments:
                moments = {"step": torch.zeros((), device=p.device)} | moments
            if moments:
                built.state[p] = moments
    return built


def set_rate(optimizer: torch.optim.Optimizer, scheduled: float) -> None:
    """Set every group's learning rate to its base times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * scheduled


def _groups(optimizer: spec.Optimizer, balance: spec.Balance, stepper: Stepper) -> Iterator[Group]:
    """Groups of parameters that have a part of the network and a learning rate in common."""
    known, named = stepper.known, dict(stepper.model.named_parameters())
    what = "parameter that trains"
    rates = matched(optimizer.rates, known.parameters, "$.optimizer.rates", what)
    of_trunk, muon = set(known.trunk), _for_muon(optimizer, stepper)
    heads = [name for name in known.parameters if name not in of_trunk]
    found: dict[tuple[str, float, bool], list[Tensor]] = {}
    for part, names, lr in (
        ("trunk", known.trunk, optimizer.lr),
        ("heads", heads, optimizer.head_lr or optimizer.lr),
    ):
        for name in names:
            key = part, rates.get(name, lr), name in muon
            found.setdefault(key, []).append(named[name])
    for (part, lr, by_muon), parameters in found.items():
        yield _group(part, lr, optimizer.weight_decay, by_muon, parameters)
    own = balance.lr if isinstance(balance, spec.Uncertainty) else None
    if parameters := list(stepper.balancer.parameters()):
        yield _group("balancer", own or optimizer.lr, 0.0, False, parameters)


def _group(part: str, lr: float, decay: float, muon: bool, parameters: Sequence[Tensor]) -> Group:
    rate = {"lr": lr, "base_lr": lr, "weight_decay": decay}
    return {"params": list(parameters), **rate, "part": part, "muon": muon}


def _for_muon(optimizer: spec.Optimizer, stepper: Stepper) -> set[str]:
    """Names of the parameters that Muon updates: the trunk's matrices, embeddings left out."""
    if not isinstance(optimizer, spec.Muon):
        return set()
    tables = {
        id(p)
        for module in stepper.model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for p in module.parameters()
    }
    named = dict(stepper.model.named_parameters())
    names = {n for n in stepper.known.trunk if named[n].dim() == 2 and id(named[n]) not in tables}
    if not names:
        rule = "no parameter of the trunk that trains is a matrix, and Muon updates matrices alone"
        fault = Fault("$.optimizer.kind", '"muon"', rule, 'choose another kind, such as "adamw"')
        raise InputError([fault])
    return names


def _build(optimizer: spec.Optimizer, groups: list[Group]) -> torch.optim.Optimizer:
    match optimizer:
        case spec.Sgd():
            nesterov = optimizer.nesterov
            return Sgd(groups, momentum=optimizer.momentum, nesterov=nesterov, fused=True)
        case spec.Adam():
            return Adam(groups, betas=optimizer.betas, fused=True)
        case spec.Muon():
            return MuonAndAdamW(groups, optimizer.momentum, optimizer.nesterov, optimizer.betas)
        case _:
            return AdamW(groups, betas=optimizer.betas, fused=True)


def _moments(optimizer: spec.Optimizer, group: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tensors that an optimizer keeps for each parameter of a group."""
    if isinstance(optimizer, spec.Sgd):
        return ("momentum_buffer",) if optimizer.momentum else ()
    return ("momentum_buffer",) if group["muon"] else ("exp_avg", "exp_avg_sq")
