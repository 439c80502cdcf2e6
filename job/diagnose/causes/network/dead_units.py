"""Dead units: a ReLU that gives 0 for every sample, so that nothing passes in either direction."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.diagnose.causes.network.place import place
from job.diagnose.inside.relus import Relu
from job.diagnose.probe import Probe
from job.spec.patch import Edit

DEAD = 0.9
"""Share of a layer's units that never fire, from which on the layer is dead."""
LOWER = (3, 10, 30)
"""Divisors of the learning rates that are tried if units have died in training."""


def at_start(case: Case) -> Iterator[Finding]:
    """Findings on layers that are dead before the first step; closes the tasks behind them."""
    for relu in _dead(case, case.at_start.relus):
        tasks = _stuck(case, relu)
        if tasks and relu.behind in {r.behind for r in _dead(case, case.first.at_end.relus)}:
            case.closed.update(tasks)
            yield _finding(case, relu, tasks, "before the first step")


def died(case: Case) -> Iterator[Finding]:
    """Findings on layers that have died in training, whose tasks learn nothing.

    Where they live at a lower learning rate, that is the cause, and the dead units its trace.
    """
    for relu in _dead(case, case.now.at_end.relus):
        tasks = _stuck(case, relu)
        if not tasks:
            continue
        optimizer = case.spec.optimizer
        rates = [("lr", optimizer.lr)]
        rates += [("head_lr", optimizer.head_lr)] if optimizer.head_lr is not None else []
        slower = [
            tuple(Edit(("optimizer", key), float(f"{lr / by:.1g}")) for key, lr in rates)
            for by in LOWER
        ]
        if optimizer.rates:
            slower.append((Edit(("optimizer", "rates"), {}),))
        best = case.best_edits(slower, tasks)
        when = f"after {len(case.now.steps)} steps"
        if best is None:
            case.closed.update(tasks)
            yield _finding(case, relu, tasks, when)
            continue
        edits, after = best
        effect = skill_changes(case.now, after, tasks)
        found = _finding(case, relu, tasks, when)
        case.accept(edits, after)
        yield Finding(
            "learning_rate", None, found.evidence, remedy(edits), edits, effect, tuple(tasks)
        )


def _dead(case: Case, relus: list[Relu]) -> list[Relu]:
    return [relu for relu in relus if relu.dead >= DEAD]


def _stuck(case: Case, relu: Relu) -> list[str]:
    """The tasks that learn nothing and read what the layer in front of a ReLU makes."""
    behind = readers(case.now, relu.behind)
    return [name for name in case.not_learning() if name in behind]


def readers(probe: Probe, layer: str) -> set[str]:
    """The tasks whose loss reaches a layer's weights, or those of any before it; else all."""
    reached: set[str] = set()
    for each in probe.at_end.signals.layers:
        reached = set(each.gradients) or reached
        if each.name == layer:
            return reached or set(probe.names)
    return set(probe.names)


def _finding(case: Case, relu: Relu, tasks: list[str], when: str) -> Finding:
    evidence = (
        f"{relu.dead:.0%} of the {relu.units} units of the ReLU behind {relu.behind} give 0 for "
        f"every sample that was looked at, {when}: a ReLU turns all below 0 into 0, and a 0 passes "
        f"neither a signal forwards nor a gradient backwards, so it never comes back to life; "
        f"nothing is learned of {', '.join(tasks)}"
    )
    remedy = (
        f"look at {place(case, relu.behind)}: start its biases at 0 or above and its weights as "
        f"torch does, or use a LeakyReLU, GELU or SiLU in place of the ReLU"
    )
    return Finding("dead_units", tasks[0] if len(tasks) == 1 else None, evidence, remedy)
