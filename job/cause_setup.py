"""The set-up: batches too small for the balancer, too few steps, too little held against noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from itertools import pairwise

from job.edit import Edit
from job.finding import GAIN, Case, Finding, gain, told
from job.probe import STEPS, Probe
from job.spec import BatchMean, GradientNorm, TorchJD

JUMPS = 0.5
"""Standard deviation of a log weight's change from step to step, from which batches are too small
for a balancer that looks at one alone."""
MORE = 4
"""Times as many samples in a batch, or epochs."""
APART = 0.5
"""Between the skills on training and validation split, from which a task is learned by heart."""


def batch_noise(case: Case) -> Iterator[Finding]:
    """A balancer of one batch's statistics, whose weights jump from one batch to the next."""
    spec, now = case.spec, case.now
    balance = spec.balance
    of_batch = isinstance(balance, BatchMean | TorchJD)
    of_batch |= isinstance(balance, GradientNorm) and balance.momentum == 0
    jumps = {name: _jump(now, name) for name in now.names} if of_batch else {}
    if not jumps or max(jumps.values()) < JUMPS:
        return
    size = min(MORE * spec.train.batch_size, len(now.data.train.features))
    kind = "gradient_norm" if isinstance(balance, GradientNorm) else "running_mean"
    edits = (
        Edit(("balance",), {"kind": kind}),
        *([Edit(("train", "batch_size"), size)] if spec.train.batch_size < 8 else []),
    )
    name = max(jumps, key=lambda n: jumps[n])
    evidence = (
        f"its weight changes by a factor of {math.exp(jumps[name]):.2g} from one batch of "
        f"{spec.train.batch_size} to the next (sd of its log): {balance.kind} looks at one batch "
        f"alone"
    )
    tried = case.try_(edits[0])
    if tried is None:
        return
    effect = f"by ×{math.exp(_jump(tried, name)):.2g}; {told(now, tried, now.names)}"
    case.accept(edits[:1], tried)
    yield Finding("batch_noise", name, evidence, f"set {edits[0]}", edits[:1], effect)


def _jump(probe: Probe, name: str) -> float:
    weights = [step.tasks[name].weight for step in probe.steps if step.tasks[name].weight > 0]
    changes = [math.log(b / a) for a, b in pairwise(weights)]
    return statistics.pstdev(changes) if len(changes) > 1 else 0.0


def too_few_steps(case: Case) -> Iterator[Finding]:
    """Stuck tasks that more of the same would teach."""
    stuck, now = case.stuck(), case.now
    if not stuck or not now.whole or MORE * now.planned > STEPS:
        return
    for more in (MORE, MORE**2):
        epochs = Edit(("train", "epochs"), more * case.spec.train.epochs)
        tried = case.try_(epochs)
        if tried is None:
            return
        learned = [n for n in stuck if tried.skill(n) > 0 and gain(now, tried, n) >= GAIN]
        if 2 * len(learned) < len(stuck):
            continue
        evidence = (
            f"the run is over after {now.planned} steps, {now.batches} an epoch, and nothing has "
            f"been learned: {more} times as many teach it"
        )
        effect = told(now, tried, learned)
        case.accept([epochs], tried)
        yield Finding("too_few_steps", None, evidence, f"set {epochs}", (epochs,), effect)
        return


def overfitting(case: Case) -> Iterator[Finding]:
    """Tasks that are learned by heart: known on the training split, unknown on the other."""
    for name in case.now.names:
        now = case.now
        train, held_out = now.skill(name), now.skill(name, "validation")
        if name in case.closed or not train - held_out > APART or held_out > 0:
            continue
        best = case.best(list(_regularized(case)), [name], "validation")
        if best is None:
            continue
        edits, after = best
        evidence = (
            f"its skill is {train:.0%} on the training split and {held_out:.0%} on the validation "
            f"split: it is learned by heart"
        )
        effect = told(now, after, [name], "validation")
        case.accept(edits, after)
        remedy = "set " + ", ".join(map(str, edits))
        yield Finding("overfitting", name, evidence, remedy, edits, effect)


def _regularized(case: Case) -> Iterator[tuple[Edit, ...]]:
    dropout, epochs = case.spec.model.dropout, case.spec.train.epochs
    if dropout.heads < 0.6:
        more = {"input": max(dropout.input, 0.3), "heads": 0.6}
        yield (Edit(("model", "dropout"), more),)
    if epochs >= 4:
        yield (Edit(("train", "epochs"), epochs // 4),)


def uninformative(case: Case, explained: set[str | None]) -> Iterator[Finding]:
    """Stuck tasks that nothing measured explains, and that do no better alone."""
    for name in case.stuck():
        if name in explained or case.now.foreseen(name) < -GAIN:
            continue
        yield Finding(
            "uninformative",
            name,
            f"its loss, {case.now.end(name):.3g}, is no better than the trivial prediction's, "
            f"{case.now.trivial(name):.3g}, although its head can reach it, has its gradients and "
            f"its share of them",
            "the features may not tell it: no edit of a spec does that",
        )
