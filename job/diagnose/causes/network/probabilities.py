"""Probabilities: a softmax or sigmoid in front of a loss that applies one itself."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from job.diagnose.case import Case, Finding, Mechanism
from job.diagnose.causes.network.place import head
from job.diagnose.inside.ranges import Range
from job.model.labels import labelled
from job.spec import Task

HARMLESS = 0.1
"""Part of the trivial prediction's loss that the least possible loss may have without harm: a
network that limits its outputs loosely does well."""
ENDS = 1e-3
"""Distance from 0 or 1 within which a limit counts as that number."""
READS = ("cross_entropy", "binary_cross_entropy")


def findings(case: Case) -> Iterator[Finding]:
    """A finding for each task of classes whose outputs have limits; closes the task."""
    for task in case.original.tasks:
        limits = case.structure.ranges[task.name]
        if task.loss.kind not in READS or task.name in case.closed:
            continue
        least, trivial = _least_loss(case, task, limits), case.first.trivial(task.name)
        if least <= HARMLESS * trivial:
            continue
        case.closed.add(task.name)
        yield _finding(case, task, limits, least)


def _finding(case: Case, task: Task, limits: Range, least: float) -> Finding:
    name = "softmax" if task.loss.kind == "cross_entropy" else "sigmoid"
    probable = abs(limits.low) < ENDS and abs(limits.high - 1) < ENDS
    sums = " and sum to 1" if limits.sums_to_one else ""
    what = (
        f"they are probabilities already, and the loss {task.loss.kind} applies a {name} to them "
        f"once more"
        if probable
        else f"the {name} of the loss {task.loss.kind} needs numbers without limits"
    )
    evidence = (
        f"whatever the weights, its outputs stay between {_end(limits.low)} and "
        f"{_end(limits.high)}{sums}: {what}. So the network cannot be sure of anything: its loss "
        f"cannot fall below {least:.2g} nats, even if all is right (trivial prediction: "
        f"{case.first.trivial(task.name):.2g})"
    )
    remedy = (
        f"in {head(case)}, return the numbers before that {name if probable else 'activation'}: "
        f"remove the last softmax, sigmoid or other activation; then the loss can fall to 0"
    )
    mechanism: Mechanism = "probabilities" if probable else "output_range"
    return Finding(mechanism, task.name, evidence, remedy)


def _least_loss(case: Case, task: Task, limits: Range) -> float:
    """The loss of a network that is right everywhere, as far as its limits let it."""
    if task.loss.kind == "cross_entropy":
        apart = limits.high - limits.low
        return math.log1p((task.outputs - 1) * math.exp(-apart))
    target = case.first.data.train.targets[task.name]
    ones = target[labelled(target)].double().mean().item()
    of_one, of_zero = (F.softplus(torch.tensor(x)).item() for x in (-limits.high, limits.low))
    return ones * of_one + (1 - ones) * of_zero


def _end(value: float) -> str:
    """A limit, as the number that it is meant to be."""
    return f"{round(value, 3) + 0.0:g}".replace("inf", "∞")
