"""Finds out why a task does not learn, and which edits of the spec help.

The causes are checked in an order in which an earlier one may hide a later one. An edit that helps
is kept while the later causes are checked, as a task may need several edits. Nearly every edit is
tried in a probe, and is offered only if it helps there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from job.data.dataset import Dataset
from job.diagnose.case import Case, Finding
from job.diagnose.causes import (
    batch_noise,
    blocked_path,
    conflict,
    learning_rate,
    overfitting,
    saturated_loss,
    starved,
    targets,
    too_few_steps,
    travel_budget,
    uncertainty,
    uninformative,
)
from job.diagnose.probe import Probe, Tick, probe, probe_inputs
from job.diagnose.reach import Reach, reach
from job.errors import Fault, InputError
from job.spec import JobSpec, Python
from job.spec.patch import Edit
from job.train.trainer import Trainer

Build = Callable[[JobSpec, Dataset], Trainer]


SECONDS = 600.0
"""Last limit of a diagnosis. It is far above what a small job needs even on a busy machine."""


@dataclass(frozen=True)
class Diagnosis:
    """The result of a diagnosis; a finding may explain those after it."""

    findings: list[Finding]
    edits: list[Edit]
    """All edits of the findings."""
    before: Probe
    """Probe of the spec as it is."""
    after: Probe
    """Probe with all edits."""
    late: bool
    """True if the time limit ended it before everything was tried."""


def diagnose(
    spec: JobSpec, data: Dataset, build: Build = Trainer, tick: Tick = lambda done: None
) -> Diagnosis:
    """Probe a spec, find what keeps its tasks from learning, and try edits that help.

    build: makes the trainer of a spec. tick: called with the share of a probe that is done. Raises
    InputError for a network of one's own.
    """
    if isinstance(spec.model, Python):
        rule = "a diagnosis looks inside the network, and knows the built-in ones alone"
        remedy = "diagnose the job with a built-in network of that size"
        raise InputError([Fault("$.model.kind", '"python"', rule, remedy)])
    until = time.monotonic() + SECONDS

    def run_probe(other: JobSpec) -> Probe:
        return probe(build(*probe_inputs(other, data)), tick, until)

    def reach_of(other: JobSpec) -> dict[str, Reach]:
        return reach(build(*probe_inputs(other, data)))

    first = run_probe(spec)
    case = Case(spec, first, run_probe, reach_of, until)
    findings = list(_findings(case))
    return Diagnosis(findings, case.edits, first, case.now, case.late)


def _findings(case: Case) -> Iterator[Finding]:
    """All findings, in the order in which their causes are checked."""
    earlier = []
    for cause in (targets.findings, learning_rate.findings) if case.first.not_finite else CAUSES:
        for finding in cause(case):
            earlier.append(finding)
            yield finding
    if case.first.not_finite:
        if not any(finding.mechanism == "learning_rate" for finding in earlier):
            remedy = "check the scale of the data and of the losses"
            yield Finding("not_finite", None, case.first.not_finite, remedy)
        return
    explained = {name for f in earlier for name in (f.task, *f.helped) if name is not None}
    yield from uninformative.findings(case, explained)


CAUSES: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    blocked_path.findings,
    targets.findings,
    batch_noise.findings,
    learning_rate.findings,
    blocked_path.dead_units,
    too_few_steps.findings,
    saturated_loss.flat_activations,
    travel_budget.findings,
    saturated_loss.beyond_delta,
    uncertainty.findings,
    starved.findings,
    conflict.findings,
    overfitting.findings,
)
"""In an order in which an earlier cause may hide a later one."""
