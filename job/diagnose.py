"""Why a task does not learn: the causes one after the other, and the edits that mend them.

The causes are looked for in the order in which one hides the next, and each edit that is found is
kept while the rest is looked for: a task may need several at once. Nearly every edit is tried in a
probe of its own, and is found only if it helps there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from job import (
    cause_loss,
    cause_path,
    cause_rate,
    cause_setup,
    cause_sigma,
    cause_targets,
    cause_travel,
    cause_trunk,
)
from job.data import Dataset
from job.edit import Edit
from job.finding import Case, Finding
from job.probe import Probe, Tick, probe, small
from job.reach import Reach, reach
from job.spec import JobSpec
from job.train import Training

Build = Callable[[JobSpec, Dataset], Training]


@dataclass(frozen=True)
class Diagnosis:
    """What was found, in the order in which it explains what comes after."""

    findings: list[Finding]
    edits: list[Edit]
    """All edits of the findings."""
    before: Probe
    """Of the spec as it is."""
    after: Probe
    """With all edits."""


def diagnose(
    spec: JobSpec, data: Dataset, build: Build = Training, tick: Tick = lambda done: None
) -> Diagnosis:
    """Probe a spec, find what keeps tasks from learning, and try what mends it.

    build: makes the training of a spec. tick: told, at any time, what share of a probe is done.
    """

    def train(other: JobSpec) -> Probe:
        return probe(build(*small(other, data)), tick)

    def measure(other: JobSpec) -> dict[str, Reach]:
        return reach(build(*small(other, data)))

    case = Case(train(spec), train, measure)
    findings = list(cause_path.find(case))
    findings += cause_targets.find(case)
    findings += cause_setup.batch_noise(case)
    findings += cause_rate.find(case)
    if case.now.broken is None:
        for cause in (
            cause_path.died,
            cause_setup.too_few_steps,
            cause_loss.flat,
            cause_travel.find,
            cause_loss.beyond,
            cause_sigma.find,
            cause_trunk.starved,
            cause_trunk.conflict,
            cause_setup.overfitting,
        ):
            findings += cause(case)
        findings += cause_setup.uninformative(case, {f.task for f in findings})
    return Diagnosis(findings, case.edits, case.first, case.now)
