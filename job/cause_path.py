"""Paths that are dead or blocked: no gradient, no optimizer, or units that never fire."""

from __future__ import annotations

from collections.abc import Iterator

from job.edit import Edit
from job.finding import Case, Finding, told

FIRING = 0.05
"""Share of a projection's units that must fire for some sample."""


def find(case: Case) -> Iterator[Finding]:
    """Findings of the spec as it is; closes the tasks that they are of."""
    yield from _untrained(case)
    for k, name in enumerate(case.first.names):
        if case.first.silent[name]:
            yield _silent(case, k, name)
            case.closed.add(name)
    if case.first.silent[""]:
        yield Finding(
            "blocked_path",
            None,
            f"no task gave a gradient to {_named(case.first.silent[''])} in any of "
            f"{len(case.first.steps)} steps",
            "look where the loss is cut off from it: no edit of a spec does that",
        )


def died(case: Case) -> Iterator[Finding]:
    """Findings of stuck window heads of which hardly a unit fires."""
    for name, share in case.now.dead.items():
        if share > 1 - FIRING and name in case.stuck():
            yield from _dead(case, name)


def _untrained(case: Case) -> Iterator[Finding]:
    """Parameters that no optimizer moves: a frozen layer, a log variance that was forgotten."""
    if case.first.untrained:
        yield Finding(
            "blocked_path",
            None,
            f"the optimizer does not move {_named(case.first.untrained)} in "
            f"{len(case.first.steps)} steps",
            "hand them to the optimizer and let them have gradients: no edit of a spec does that",
        )


def _silent(case: Case, k: int, name: str) -> Finding:
    task = case.first.spec.tasks[k]
    evidence = (
        f"the gradient of {_named(case.first.silent[name])} was 0 in all of "
        f"{len(case.first.steps)} steps"
    )
    if task.activation == "identity":
        cut = "its loss is cut off from its head, as by .detach(): no edit of a spec does that"
        return Finding("blocked_path", name, evidence, cut)
    edit = Edit(("tasks", k, "activation"), "identity")
    return _mended(case, name, f"{evidence}: its {task.activation} is flat there", edit)


def _dead(case: Case, name: str) -> Iterator[Finding]:
    """A window head whose ReLU has died, which slower heads prevent."""
    optimizer = case.first.spec.optimizer
    lr = optimizer.head_lr or optimizer.lr
    rates = [(Edit(("optimizer", "head_lr"), float(f"{lr / by:.1g}")),) for by in (3, 10, 30)]
    if (best := case.best(rates, [name])) is None:
        return
    edits, after = best
    evidence = (
        f"{case.first.dead[name]:.0%} of its projection's units are 0 for every sample, so no "
        f"gradient passes: with head_lr {lr:g} the ReLU has died"
    )
    effect = f"{after.dead[name]:.0%} of them; {told(case.now, after, [name])}"
    case.accept(edits, after)
    yield Finding("blocked_path", name, evidence, f"set {edits[0]}", edits, effect)


def _mended(case: Case, name: str, evidence: str, edit: Edit) -> Finding:
    remedy = f"set {edit}"
    tried = case.try_(edit)
    if tried is None:
        return Finding("blocked_path", name, evidence, remedy, (edit,))
    effect = told(case.now, tried, [name])
    case.accept([edit], tried)
    return Finding("blocked_path", name, evidence, remedy, (edit,), effect)


def _named(parameters: list[str]) -> str:
    """The parameters, as modules where all of one are among them."""
    shown = ", ".join(parameters[:3])
    return shown + (f" and {len(parameters) - 3} more" if len(parameters) > 3 else "")
