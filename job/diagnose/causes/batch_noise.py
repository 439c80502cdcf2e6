"""Batch noise: a balancer's weights jump from batch to batch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from itertools import pairwise

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.diagnose.probe import Probe
from job.spec import BatchMean, GradientNorm, TorchJD
from job.spec.patch import Edit

JUMPS = 0.5
"""Standard deviation of a log weight's change from step to step, above which batches are too small
for a balancer that uses only the present batch."""


def findings(case: Case) -> Iterator[Finding]:
    """A finding if the balancer uses only the present batch, and its weights jump."""
    spec, now = case.spec, case.now
    balance = spec.balance
    of_batch = isinstance(balance, BatchMean | TorchJD)
    of_batch |= isinstance(balance, GradientNorm) and balance.momentum == 0
    jumps = {name: _jump(now, name) for name in now.names} if of_batch else {}
    if not jumps or max(jumps.values()) < JUMPS:
        return
    kind = "gradient_norm" if isinstance(balance, GradientNorm) else "running_mean"
    best = case.best_edits([(Edit(("balance",), {"kind": kind}),)], case.open_tasks)
    if best is None:
        return
    edits, after = best
    name = max(jumps, key=lambda n: jumps[n])
    evidence = (
        f"its weight typically changes by a factor of {math.exp(jumps[name]):.2g} from one batch "
        f"of {spec.train.batch_size} to the next: {balance.kind} sets it from that batch alone, "
        f"and so few samples tell little about all others"
    )
    helped = case.helped(after, case.open_tasks)
    jump = math.exp(_jump(after, name))
    effect = f"the factor becomes {jump:.2g}; {skill_changes(now, after, helped)}"
    case.accept(edits, after)
    yield Finding("batch_noise", name, evidence, remedy(edits), edits, effect, helped)


def _jump(probe: Probe, name: str) -> float:
    """Standard deviation of the change of a task's log weight from step to step."""
    weights = [step.tasks[name].weight for step in probe.steps if step.tasks[name].weight > 0]
    changes = [math.log(b / a) for a, b in pairwise(weights)]
    return statistics.pstdev(changes) if len(changes) > 1 else 0.0
