"""Blocked path: parameters without gradient or optimizer, or units that are always 0."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.spec.patch import Edit

FIRING = 0.05
"""Share of a projection's units that must be above 0 for some sample."""


def findings(case: Case) -> Iterator[Finding]:
    """Findings on parameters that no gradient or no optimizer reaches; closes their tasks."""
    first = case.first
    steps = len(first.steps)
    if first.untrained:
        yield Finding(
            "blocked_path",
            None,
            f"the optimizer does not update {_named(first.untrained)} in {steps} steps",
            "pass them to the optimizer, with requires_grad on: this is a fault of the code, which "
            "no edit of the spec can mend",
        )
    for k, name in enumerate(first.names):
        if first.without_gradient[name] and name not in case.closed:
            yield _without_gradient(case, k, name)
            case.closed.add(name)
    if first.without_gradient[""] and case.open_tasks:
        yield Finding(
            "blocked_path",
            None,
            f"no task gives a gradient to {_named(first.without_gradient[''])} in any of {steps} "
            "steps",
            "find the place where the losses are cut off from it, such as a .detach(): this is a "
            "fault of the code, which no edit of the spec can mend",
        )


def dead_units(case: Case) -> Iterator[Finding]:
    """Findings on stuck window heads nearly all of whose units are always 0."""
    for name, share in case.now.dead.items():
        if share > 1 - FIRING and name in case.not_learning():
            finding = _dead(case, name)
            if finding.edits:
                yield finding


def _without_gradient(case: Case, k: int, name: str) -> Finding:
    """The finding on a head without gradient: dead units, a flat activation or a cut-off loss."""
    if case.first.dead.get(name, 0.0) > 1 - FIRING:
        return _dead(case, name)
    task = case.first.spec.tasks[k]
    evidence = (
        f"the gradient of {_named(case.first.without_gradient[name])} is 0 in all of "
        f"{len(case.first.steps)} steps, so that training leaves them as they started"
    )
    if task.activation != "identity":
        edit = Edit(("tasks", k, "activation"), "identity")
        best = case.best_edits([(edit,)], [name], at_any_cost=True)
        evidence += f": its activation {task.activation} is flat where all its outputs are"
        if best is not None:
            edits, after = best
            effect = skill_changes(case.now, after, [name])
            words = remedy(edits)
            finding = Finding("blocked_path", name, evidence, words, edits, effect, (name,))
            return case.offer(finding, after)
    cut = (
        "find the place where its loss is cut off from its head, such as a .detach(): this is a "
        "fault of the code, which no edit of the spec can mend"
    )
    return Finding("blocked_path", name, evidence, cut)


def _dead(case: Case, name: str) -> Finding:
    """The finding on a window head with dead units; a lower head_lr may prevent them."""
    optimizer = case.spec.optimizer
    lr = optimizer.head_lr or optimizer.lr
    evidence = (
        f"{case.now.dead[name]:.0%} of the units in the first of its own layers are 0 for every "
        f"sample (head_lr {lr:g}). A ReLU passes no gradient where it gives 0, so these units stay "
        f"0, and the task learns nothing"
    )
    rates = [(Edit(("optimizer", "head_lr"), float(f"{lr / by:.1g}")),) for by in (3, 10, 30)]
    best = case.best_edits(rates, [name])
    if best is None:
        return Finding(
            "blocked_path",
            name,
            evidence,
            "start the biases of that layer higher, in the code: no lower head_lr helped",
        )
    edits, after = best
    effect = f"{after.dead[name]:.0%} of them are 0; {skill_changes(case.now, after, [name])}"
    case.accept(edits, after)
    return Finding("blocked_path", name, evidence, remedy(edits), edits, effect, (name,))


def _named(parameters: list[str]) -> str:
    """The first parameters' names, and the number of the others."""
    first = ", ".join(parameters[:3])
    return first + (f" and {len(parameters) - 3} more" if len(parameters) > 3 else "")
