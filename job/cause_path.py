"""Paths that are dead or blocked: no gradient, no optimizer, or units that never fire."""

from __future__ import annotations

from collections.abc import Iterator

from job.edit import Edit
from job.finding import Case, Finding, told

FIRING = 0.05
"""Share of a projection's units that must fire for some sample."""


def find(case: Case) -> Iterator[Finding]:
    """Findings of the spec as it is; closes the tasks that they are of."""
    first = case.first
    steps = len(first.steps)
    if first.untrained:
        yield Finding(
            "blocked_path",
            None,
            f"the optimizer does not move {_named(first.untrained)} in {steps} steps",
            "hand them to the optimizer and let them have gradients: no edit of a spec does that",
        )
    for k, name in enumerate(first.names):
        if first.silent[name]:
            yield _silent(case, k, name)
            case.closed.add(name)
    if first.silent[""]:
        yield Finding(
            "blocked_path",
            None,
            f"no task gave a gradient to {_named(first.silent[''])} in any of {steps} steps",
            "look where the loss is cut off from it: no edit of a spec does that",
        )


def died(case: Case) -> Iterator[Finding]:
    """Findings of stuck window heads of which hardly a unit fires."""
    for name, share in case.now.dead.items():
        if share > 1 - FIRING and name in case.stuck():
            finding = _dead(case, name)
            if finding.edits:
                yield finding


def _silent(case: Case, k: int, name: str) -> Finding:
    """A head without gradients: its units are dead, its activation flat, or its loss cut off."""
    if case.first.dead.get(name, 0.0) > 1 - FIRING:
        return _dead(case, name)
    task = case.first.spec.tasks[k]
    evidence = (
        f"the gradient of {_named(case.first.silent[name])} was 0 in all of "
        f"{len(case.first.steps)} steps"
    )
    if task.activation != "identity":
        edit = Edit(("tasks", k, "activation"), "identity")
        best = case.best([(edit,)], [name], at_any_cost=True)
        evidence += f": its {task.activation} is flat there"
        if best is not None:
            edits, after = best
            effect = told(case.now, after, [name])
            case.accept(edits, after)
            return Finding("blocked_path", name, evidence, f"set {edit}", edits, effect, (name,))
    cut = "look where its loss is cut off from its head, as by .detach(): no edit of a spec helps"
    return Finding("blocked_path", name, evidence, cut)


def _dead(case: Case, name: str) -> Finding:
    """A window head whose ReLU has died, which slower heads may prevent."""
    optimizer = case.spec.optimizer
    lr = optimizer.head_lr or optimizer.lr
    evidence = (
        f"{case.now.dead[name]:.0%} of its projection's units are 0 for every sample, so hardly a "
        f"gradient passes: its ReLU has died (head_lr {lr:g})"
    )
    rates = [(Edit(("optimizer", "head_lr"), float(f"{lr / by:.1g}")),) for by in (3, 10, 30)]
    best = case.best(rates, [name])
    if best is None:
        return Finding("blocked_path", name, evidence, "start its biases higher: no edit does that")
    edits, after = best
    effect = f"{after.dead[name]:.0%} of them; {told(case.now, after, [name])}"
    case.accept(edits, after)
    return Finding("blocked_path", name, evidence, f"set {edits[0]}", edits, effect, (name,))


def _named(parameters: list[str]) -> str:
    """The first few of the parameters, and how many more there are."""
    shown = ", ".join(parameters[:3])
    return shown + (f" and {len(parameters) - 3} more" if len(parameters) > 3 else "")
