"""Optimizers of every kind: torch's own numbers, skipped updates, learning rates by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from job import spec
from job.errors import InputError
from job.model.losses import TaskLoss
from job.train.gradients.ownership import ownership
from job.train.step import Stepper
from job.train.updates.kinds import MuonAndAdamW
from job.train.updates.optimizer import build_optimizer
from tests.support.nets import MIXED, Batch, balancer, batch, network
from tests.support.tiny_job import Trained, job, write

SECTION: TypeAdapter[spec.Optimizer] = TypeAdapter(spec.Optimizer)
KINDS: list[dict[str, Any]] = [
    {"kind": "sgd", "lr": 0.05, "momentum": 0.0, "weight_decay": 0.01},
    {"kind": "sgd", "lr": 0.05},
    {"kind": "sgd", "lr": 0.05, "nesterov": True, "head_lr": 0.1},
    {"kind": "adam", "lr": 0.01, "weight_decay": 0.1, "betas": [0.8, 0.9]},
    {"lr": 0.01, "head_lr": 0.02},
    {"kind": "muon", "lr": 0.01},
]
NAMES = ["sgd", "momentum", "nesterov", "adam", "adamw", "muon"]


def build(section: dict[str, Any]) -> tuple[Stepper, torch.optim.Optimizer]:
    """A stepper of a network without dropout, and its optimizer."""
    losses, model = [TaskLoss(t) for t in MIXED], network(MIXED, 0.0)
    known = ownership(model, batch(MIXED).inputs)
    stepper = Stepper(model, known, losses, balancer(MIXED, {"kind": "uncertainty"}))
    uncertainty = spec.Uncertainty(kind="uncertainty")
    return stepper, build_optimizer(SECTION.validate_json(_json(section)), uncertainty, stepper)


def _json(section: dict[str, Any]) -> str:
    return TypeAdapter(dict[str, Any]).dump_json(section).decode()


def plain(section: dict[str, Any], stepper: Stepper) -> list[torch.optim.Optimizer]:
    """The same by torch alone, not fused: by a loop over tensors, as its documentation has it."""
    given = SECTION.validate_json(_json(section))
    trunk: list[torch.nn.Parameter] = []
    heads: list[torch.nn.Parameter] = []
    rest = list(stepper.balancer.parameters())
    for name, p in stepper.model.named_parameters():
        (trunk if name.startswith("trunk.") else heads).append(p)
    decay, lr = given.weight_decay, given.lr
    groups: list[dict[str, Any]] = [
        {"params": trunk, "lr": lr, "weight_decay": decay},
        {"params": heads, "lr": given.head_lr or lr, "weight_decay": decay},
        {"params": rest, "lr": lr, "weight_decay": 0.0},
    ]
    match given:
        case spec.Sgd():
            momentum, nesterov = given.momentum, given.nesterov
            sgd = torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov, foreach=False)
            return [sgd]
        case spec.Adam():
            return [torch.optim.Adam(groups, betas=given.betas, foreach=False)]
        case spec.Muon():
            matrices = [p for p in trunk if p.dim() == 2]
            groups[0]["params"] = [p for p in trunk if p.dim() != 2]
            muon = torch.optim.Muon(
                matrices, lr, decay, given.momentum, adjust_lr_fn="match_rms_adamw"
            )
            return [muon, torch.optim.AdamW(groups, betas=given.betas, foreach=False)]
        case _:
            return [torch.optim.AdamW(groups, betas=given.betas, foreach=False)]


def weights(stepper: Stepper) -> list[torch.Tensor]:
    return [p.detach().clone() for p in stepper.parameters()]


@pytest.mark.parametrize("section", KINDS, ids=NAMES)
def test_the_updates_are_torchs(section: dict[str, Any]) -> None:
    """Three steps move every parameter as torch's own loop over tensors does."""
    stepper, optimizer = build(section)
    other, _ = build(section)
    others = plain(section, other)
    for seed in range(3):
        stepper(*_of(batch(MIXED, seed=seed)), optimizer)
        for p, q in zip(stepper.parameters(), other.parameters(), strict=True):
            assert p.grad is not None
            q.grad = p.grad.clone()
        for each in others:
            each.step()
    for now, then in zip(weights(stepper), weights(other), strict=True):
        torch.testing.assert_close(now, then, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("section", KINDS, ids=NAMES)
def test_a_skipped_update_changes_nothing(section: dict[str, Any]) -> None:
    """A gradient that is not finite leaves parameters and optimizer as they were, first step and
    later."""
    for before_it in (0, 2):
        stepper, optimizer = build(section)
        for seed in range(before_it):
            stepper(*_of(batch(MIXED, seed=seed)), optimizer)
        was, kept = weights(stepper), _state(optimizer)
        broken = batch(MIXED)
        broken.inputs["features"][0, 0, 0] = torch.nan
        assert stepper(*_of(broken), optimizer).skipped == 1
        assert all(map(torch.equal, was, weights(stepper)))
        assert all(map(torch.equal, kept, _state(optimizer)))


def test_rates_by_name() -> None:
    """The first pattern that matches decides; without one, the part does."""
    section = {
        "lr": 0.1,
        "head_lr": 0.2,
        "rates": {"trunk.*.weight_ih_l0": 0.3, "trunk.*": 0.4, "*task_type*bias": 0.5},
    }
    stepper, optimizer = build(section)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    found = {name: rate[id(p)] for name, p in stepper.model.named_parameters()}
    for name, lr in found.items():
        if name.endswith("weight_ih_l0"):
            assert lr == 0.3
        elif name.startswith("trunk."):
            assert lr == 0.4
        else:
            assert lr == (0.5 if "task_type" in name and name.endswith("bias") else 0.2)
    assert set(found.values()) == {0.2, 0.3, 0.4, 0.5}


def test_a_pattern_that_matches_nothing() -> None:
    """The fault names the pattern, and parameters with names near it."""
    with pytest.raises(InputError, match=r'"trunk.lstm.\*".*names near it are trunk.encoder.lstm'):
        build({"rates": {"trunk.lstm.*": 0.1}})


def test_a_rate_of_what_is_frozen(tmp_path: Path) -> None:
    """The fault says that it trains not, as its name is there."""
    write(tmp_path)
    edits = {"model.freeze": ["trunk"], "optimizer.rates": {"trunk.*": 0.1}}
    with pytest.raises(InputError, match="no parameter that trains has a name that matches"):
        Trained(*job(tmp_path, edits))


def test_muon_alone() -> None:
    """A network of matrices in the trunk alone, and a balancer without parameters."""
    matrix = torch.nn.Parameter(torch.eye(2))
    group = {"params": [matrix], "lr": 0.1, "weight_decay": 0.0, "muon": True}
    optimizer = MuonAndAdamW([group], 0.95, True, (0.9, 0.999))
    matrix.grad, optimizer.found_inf = torch.ones(2, 2), torch.tensor(0.0)
    optimizer.state[matrix] = {"momentum_buffer": torch.zeros(2, 2)}
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert not torch.equal(matrix, torch.eye(2))


def _of(at: Batch) -> tuple[Any, Any]:
    return at.inputs, at.targets


def _state(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    held = optimizer.state_dict()["state"].values()
    return [tensor.clone() for moments in held for tensor in moments.values()]
