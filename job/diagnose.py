"""Why a task does not learn: the causes one after the other, and the edits that mend them.

The causes are looked for in the order in which one hides the next, and each edit that is found is
kept while the rest is looked for: a task may need several at once. Nearly every edit is tried in a
probe of its own, and is found only if it helps there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
from job.probe import STEPS, Probe, Tick, probe, small
from job.reach import Reach, reach
from job.spec import JobSpec
from job.train import Training

Build = Callable[[JobSpec, Dataset], Training]


SECONDS = 300.0
"""After which nothing more is tried."""


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
    late: bool
    """Whether there was no time to try everything."""


def diagnose(
    spec: JobSpec, data: Dataset, build: Build = Training, tick: Tick = lambda done: None
) -> Diagnosis:
    """Probe a spec, find what keeps tasks from learning, and try what mends it.

    build: makes the training of a spec. tick: told, at any time, what share of a probe is done.
    Every probe takes as many steps as the first one could in its time, so that they compare.
    """
    begun = time.monotonic()
    first = probe(build(*small(spec, data)), tick)
    steps = first.looks[-1].step
    most = STEPS if steps == min(first.planned, STEPS) or first.broken else steps

    def train(other: JobSpec) -> Probe:
        return probe(build(*small(other, data)), tick, most)

    def measure(other: JobSpec) -> dict[str, Reach]:
        return reach(build(*small(other, data)))

    case = Case(spec, first, train, measure, begun + SECONDS)
    findings = list(_found(case))
    return Diagnosis(findings, case.edits, first, case.now, case.late)


def _found(case: Case) -> Iterator[Finding]:
    found = []
    for cause in (cause_targets.find, cause_rate.find) if case.first.broken else CAUSES:
        for finding in cause(case):
            found.append(finding)
            yield finding
    if case.first.broken:
        if not any(finding.mechanism == "learning_rate" for finding in found):
            remedy = "look at the scale of the data and of the losses"
            yield Finding("not_finite", None, case.first.broken, remedy)
        return
    explained = {name for f in found for name in (f.task, *f.helped) if name is not None}
    yield from cause_setup.unexplained(case, explained)


CAUSES: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    cause_path.find,
    cause_targets.find,
    cause_setup.batch_noise,
    cause_rate.find,
    cause_path.died,
    cause_setup.too_few_steps,
    cause_loss.flat,
    cause_travel.find,
    cause_loss.beyond,
    cause_sigma.find,
    cause_trunk.starved,
    cause_trunk.conflict,
    cause_setup.overfitting,
)
"""In the order in which one hides the next."""
