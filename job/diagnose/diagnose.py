"""Finds out why a task does not learn, and which edits of the spec help.

The causes are checked in an order in which an earlier one may hide a later one. An edit that helps
is kept while the later causes are checked, as a task may need several edits. Every edit is tried
in a probe, and is offered only if it raises a task's skill there and lowers no other's.

A cause is a function of a Case that yields Findings (see job.diagnose.case). It tries edits with
`case.best_edits`, and keeps those that it offers with `case.accept`. The skill of a probe with
permuted targets, the control, is what can be had without any knowledge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from job.data.dataset import Dataset, Split
from job.diagnose.case import Case, Finding, Watch
from job.diagnose.causes import (
    batch_noise,
    blocked_path,
    conflict,
    learning_rate,
    overfitting,
    samples,
    saturated_loss,
    settings,
    starved,
    targets,
    too_few_steps,
    travel_budget,
    uncertainty,
    uninformative,
)
from job.diagnose.causes.network import order as network
from job.diagnose.causes.network import vanishing
from job.diagnose.inside.look import activity, structure
from job.diagnose.probe import Probe, is_ahead, knows_beyond, probe, probe_inputs
from job.diagnose.reach import Reach, reach
from job.diagnose.side_by_side import SideBySide, fitting
from job.spec import JobSpec
from job.spec.patch import Edit
from job.train.trainer import Trainer

Build = Callable[[JobSpec, Dataset], Trainer]
Cause = Callable[[Case], Iterator[Finding]]


SECONDS = 3600.0
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
    control: Probe | None
    """Probe with all edits on permuted targets; None if there was no time for it."""
    probes: int
    """Number of probes."""
    cut: str | None
    """Why not everything was tried: `probes`, `time` or `interrupt`; None if everything was."""

    def knows(self, task: str) -> bool:
        """True if a task of the spec as it is knows something, or no split can tell.

        That is validation skill beyond its error and beyond the control's.
        """
        return _knows(self.before, self.control, task)


def diagnose(
    spec: JobSpec,
    data: Dataset,
    build: Build = Trainer,
    watch: Watch | None = None,
    cores: int = 1,
) -> Diagnosis:
    """Probe a spec, find what keeps its tasks from learning, and try edits that help.

    build: makes the trainer of a spec. watch: is told of probes and findings as they come. cores:
    on which probes run side by side, which changes no result; the processes for that load the
    spec's data themselves, and know no other `build`. An interrupt (Ctrl-C) after the first probe
    ends it early, with what was found. Raises InputError for a network that cannot train.
    """
    watch = watch or Watch()
    until = time.monotonic() + SECONDS

    def run_probe(other: JobSpec, on: Dataset = data) -> Probe:
        return probe(build(*probe_inputs(other, on)), watch.step, until)

    def reach_of(other: JobSpec) -> dict[str, Reach]:
        return reach(build(*probe_inputs(other, data)))

    watch.trying("the spec as it is")
    training = build(*probe_inputs(spec, data))
    inside = structure(training), activity(training)
    began = time.monotonic()
    first = probe(training, watch.step, until)
    at_once = fitting(cores, training.device, time.monotonic() - began)
    beside = SideBySide(spec, data, at_once, until)

    def taken(other: JobSpec) -> Probe:
        return beside.take(other) or run_probe(other)

    case = Case(spec, first, taken, reach_of, until, watch, *inside, beside.begin)
    findings: list[Finding] = []
    control = None
    interrupted = False
    try:
        with beside:
            for finding in _findings(case):
                watch.finding(finding)
                findings.append(finding)
            findings = _without_skill(case, findings)
            if not (case.late or spec.control or case.now.not_finite):
                watch.trying("permuted targets")
                control = run_probe(case.spec, permuted(data, spec.seed))
                findings += _unexplained(case, control, findings)
    except KeyboardInterrupt:
        interrupted = True
    cut = "interrupt" if interrupted else case.limit
    return Diagnosis(findings, case.edits, case.first, case.now, control, case.probes, cut)


def permuted(data: Dataset, seed: int) -> Dataset:
    """The data with the targets of each split in another order than the features."""
    draw = torch.Generator().manual_seed(seed)

    def of(split: Split) -> Split:
        order = torch.randperm(len(split), generator=draw)
        return replace(
            split,
            targets={name: y[order] for name, y in split.targets.items()},
            weights={name: y[order] for name, y in split.weights.items()},
        )

    return replace(data, train=of(data.train), validation=of(data.validation))


def _findings(case: Case) -> Iterator[Finding]:
    """All findings, in the order in which their causes are checked."""
    if case.original.control:
        evidence = "control is true: the targets of each split are shuffled between its samples"
        remedy = "nothing can be learned, as is meant; set control to false to train on the targets"
        yield Finding("control", None, evidence, remedy)
        return
    earlier = []
    for cause in FOR_NOT_FINITE if case.first.not_finite else CAUSES:
        for finding in cause(case):
            earlier.append(finding)
            yield finding
    if case.first.not_finite:
        if case.now.not_finite and not any(f.mechanism == "exploding" for f in earlier):
            remedy = "check the scale of the data and of the losses"
            yield Finding("not_finite", None, case.first.not_finite, remedy)
        return
    yield from uninformative.findings(case, _explained(earlier, case.now))


CAUSES: tuple[Cause, ...] = (
    *network.STRUCTURE,
    blocked_path.findings,
    targets.findings,
    samples.findings,
    settings.findings,
    batch_noise.findings,
    learning_rate.too_high,
    *network.ACTIVITY,
    blocked_path.dead_units,
    too_few_steps.findings,
    saturated_loss.flat_activations,
    travel_budget.findings,
    settings.start,
    saturated_loss.beyond_delta,
    uncertainty.findings,
    starved.findings,
    learning_rate.too_low,
    conflict.findings,
    settings.width,
    overfitting.findings,
)
"""In an order in which an earlier cause may hide a later one."""
FOR_NOT_FINITE: tuple[Cause, ...] = (
    vanishing.exploding,
    targets.findings,
    learning_rate.too_high,
    settings.of_divergence,
    learning_rate.far_too_high,
)
"""Where a loss or gradient is not finite, nothing else is measured."""


def _explained(findings: list[Finding], now: Probe) -> set[str]:
    """Tasks that findings are about, or help to skill on the validation split."""
    helped = {name for f in findings for name in f.helped if now.knows(name)}
    return helped | {f.task for f in findings if f.task is not None}


def _without_skill(case: Case, findings: list[Finding]) -> list[Finding]:
    """The findings without those whose edits leave their tasks without skill on any split.

    A loss that falls far and stays above the trivial prediction's is no success. The other edits
    are probed again without theirs.
    """
    kept = [f for f in findings if not f.edits or not f.helped or _ends_with_skill(case.now, f)]
    edits: list[Edit] = []
    for finding in kept:
        edits += [edit for edit in finding.edits if edit not in edits]
    if len(edits) == len(case.edits):
        return kept
    case.edits = []
    measured = case.probe_with(*edits) if edits else case.first
    case.edits, case.now = (edits, measured) if measured is not None else ([], case.first)
    return kept if measured is not None else [f for f in kept if not f.edits]


def _ends_with_skill(probe: Probe, finding: Finding) -> bool:
    return any(
        probe.knows(task) or probe.knows(task, "train") or probe.expected_skill(task) > 0
        for task in finding.helped
    )


def _unexplained(case: Case, control: Probe, findings: list[Finding]) -> Iterator[Finding]:
    """Findings on tasks without validation skill that no other finding concerns."""
    if any(finding.task is None and not finding.helped for finding in findings):
        return
    for name in case.open_tasks:
        unknown = not (
            case.now.is_hopeful(name)
            or _knows(case.now, control, name)
            or is_ahead(case.now, control, name)
        )
        if unknown and name not in _explained(findings, case.now):
            yield uninformative.unexplained(case, control, name)


def _knows(probe: Probe, control: Probe | None, task: str) -> bool:
    if probe.measured(task) is None:
        return True
    return probe.knows(task) if control is None else knows_beyond(probe, control, task)
