"""Warm-up, step and plateau schedules, and how the rate of a run follows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from job import spec
from job.train.state import TrainState
from job.train.updates.schedule import note_plateau, schedule_factor
from tests.support.tiny_job import STEPS, Trained, job, write


def factors(steps: int, per_epoch: int, **train: Any) -> list[float]:
    section = spec.Train.model_validate({"epochs": 1, "batch_size": 1} | train)
    return [schedule_factor(section, i, steps, per_epoch) for i in range(steps)]


def by_torch(make: Any, steps: int) -> list[float]:
    """Rates of torch's scheduler at a base of 1, stepped after each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_warmup_rises_to_the_base_and_stays() -> None:
    """Linear: 1/4 at the first of 4 steps, 1 from the fourth on."""
    assert factors(8, 8, warmup=4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_cosine_after_warmup_is_torchs() -> None:
    """The cosine takes the steps that the warm-up leaves."""
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    rest = by_torch(lambda optimizer: cosine(optimizer, T_max=16), 16)
    assert factors(20, 20, warmup=4, schedule="cosine")[4:] == pytest.approx(rest)


def test_steps_are_torchs() -> None:
    """The rate falls at each second epoch of 3 steps, as torch's StepLR stepped by epoch."""
    step = torch.optim.lr_scheduler.StepLR
    by_epoch = by_torch(lambda optimizer: step(optimizer, step_size=2, gamma=0.3), 5)
    found = factors(15, 3, schedule={"kind": "step", "every": 2, "factor": 0.3})
    assert found == pytest.approx([rate for rate in by_epoch for _ in range(3)])


def test_plateau_is_torchs() -> None:
    """On a series of losses the rate falls when torch's ReduceLROnPlateau lets it fall; torch
    counts the epochs after a patience that are too many, so its patience is one less."""
    draw = torch.Generator().manual_seed(0)
    losses = torch.rand(60, generator=draw).cumsum(0).flip(0) * torch.rand(60, generator=draw)
    section = spec.Train.model_validate(
        {
            "epochs": 60,
            "batch_size": 1,
            "schedule": {"kind": "plateau", "patience": 3, "least": 0.2},
        }
    )
    plateau = section.schedule
    assert isinstance(plateau, spec.Plateau)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=2, threshold=0, min_lr=0.2
    )
    at, seen = TrainState(), set()
    for loss in losses.tolist():
        at.epoch += 1
        if loss < at.best.get("*", float("inf")):
            at.best["*"], at.best_epoch["*"] = loss, at.epoch
        note_plateau(plateau, at)
        theirs.step(loss)
        rate = schedule_factor(section, 0, 60, 1, at.falls)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"]), at.epoch
        seen.add(rate)
    assert len(seen) > 1


def test_a_runs_rate_follows_its_schedule(tmp_path: Path) -> None:
    """The events have the rate of the trunk; on a plateau it falls with the next epoch's steps."""
    write(tmp_path)
    edits: dict[str, Any] = {
        "train.epochs": 4,
        "train.warmup": 2,
        "optimizer": {"kind": "sgd", "lr": 1e-6},
        "train.schedule": {"kind": "plateau", "task": "kind", "patience": 1, "factor": 0.5},
    }
    run = Trained(*job(tmp_path, edits))
    assert run.run()
    rates = [step.lr / 1e-6 for step in run.steps]
    assert rates[:STEPS] == pytest.approx([0.5, 1, 1, 1, 1])
    losses = [epoch.tasks["kind"].val_loss_original for epoch in run.epochs]
    falls = 0
    for epoch in range(1, 4):
        falls += losses[epoch - 1] >= min([float("inf"), *losses[: epoch - 1]])
        assert rates[epoch * STEPS] == pytest.approx(0.5**falls)
