"""The set-up: batches too small for the balancer, too few steps, too little held against noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from itertools import pairwise

from job.edit import Edit
from job.finding import GAIN, KNOWS, Case, Finding, gain, told
from job.probe import STEPS, Probe
from job.spec import BatchMean, GradientNorm, TorchJD

JUMPS = 0.5
"""Standard deviation of a log weight's change from step to step, from which batches are too small
for a balancer that looks at one alone."""
MORE = 4
"""Times as many epochs."""
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
    kind = "gradient_norm" if isinstance(balance, GradientNorm) else "running_mean"
    best = case.best([(Edit(("balance",), {"kind": kind}),)], case.open)
    if best is None:
        return
    edits, after = best
    name = max(jumps, key=lambda n: jumps[n])
    evidence = (
        f"its weight changes by a factor of {math.exp(jumps[name]):.2g} from one batch of "
        f"{spec.train.batch_size} to the next (sd of its log): {balance.kind} looks at one batch "
        f"alone"
    )
    helped = case.helped(after, case.open)
    effect = f"by ×{math.exp(_jump(after, name)):.2g}; {told(now, after, helped)}"
    case.accept(edits, after)
    yield Finding("batch_noise", name, evidence, f"set {edits[0]}", edits, effect, helped)


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
        edits = (epochs,)
        yield Finding(
            "too_few_steps", None, evidence, f"set {epochs}", edits, effect, tuple(learned)
        )
        return


def overfitting(case: Case) -> Iterator[Finding]:
    """Tasks that are learned by heart: known on the training split, unknown on the other."""
    for name in case.now.names:
        now = case.now
        train, held_out = now.skill(name), now.skill(name, "validation")
        if name not in case.open or not train - held_out > APART or held_out > 0:
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
        yield Finding(
            "overfitting", name, evidence, remedy, edits, effect, (name,), split="validation"
        )


def _regularized(case: Case) -> Iterator[tuple[Edit, ...]]:
    dropout, epochs = case.spec.model.dropout, case.spec.train.epochs
    if dropout.heads < 0.6:
        more = {"input": max(dropout.input, 0.3), "heads": 0.6}
        yield (Edit(("model", "dropout"), more),)
    if epochs >= 4:
        yield (Edit(("train", "epochs"), epochs // 4),)


def unexplained(case: Case, explained: set[str]) -> Iterator[Finding]:
    """Stuck tasks that nothing so far explains: trained alone, they learn or they do not."""
    for name in [n for n in case.stuck() if n not in explained]:
        if len(case.now.names) == 1 or (alone := _alone(case, name)) is None:
            continue
        trivial, loss = case.now.trivial(name), case.now.end(name)
        evidence = (
            f"its loss, {loss:.3g}, is no better than the trivial prediction's, {trivial:.3g}"
        )
        # Every task learns faster alone: only one that is far from its trivial prediction is told.
        if alone.skill(name) > KNOWS and case.now.foreseen(name) < -GAIN:
            evidence += (
                f"; alone it ends at {alone.end(name):.3g}: beside the others it does not learn"
            )
            yield Finding("conflict", name, evidence, "give it a trunk, or a run, of its own")
        elif alone.skill(name) <= KNOWS:
            evidence += (
                f"; alone it ends at {alone.end(name):.3g}, and no edit tried helps by {GAIN:.0%}"
            )
            yield Finding("uninformative", name, evidence, "the features may not tell it")


def _alone(case: Case, name: str) -> Probe | None:
    """A probe of the task without the others."""
    task = next(t for t in case.spec.tasks if t.name == name)
    return case.try_(
        Edit(("tasks",), [task.model_dump(mode="json")]),
        Edit(("balance",), {"kind": "fixed"}),
        Edit(("gates",), []),
        Edit(("train", "early_stop"), None),
        Edit(("checkpoint", "best_of"), None),
    )
