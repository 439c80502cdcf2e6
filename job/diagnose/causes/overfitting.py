"""Overfitting: the training split is learned, the validation split is not."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.diagnose.probe import Probe
from job.spec import Python
from job.spec.patch import Edit

APART = 0.5
"""Gap between the skills on the training and validation split, above which a task is memorized."""


def findings(case: Case) -> Iterator[Finding]:
    """Findings on memorized tasks, with skill on the training split only.

    An edit is offered only if it brings skill on the validation split: training less on labels
    that the features do not tell is no remedy.
    """
    for name in case.now.names:
        if name not in case.open_tasks or not is_memorized(case.now, name):
            continue
        train, held_out = case.now.skill(name), case.now.skill(name, "validation")
        evidence = (
            f"its skill is {train:.0%} on the training split and {held_out:.0%} on the validation "
            f"split: it is learned by heart, and what is learned does not hold for other samples"
        )
        for edits in _regularized(case):
            tried = case.probe_with(*edits)
            if tried is None or not tried.knows(name):
                continue
            if not [other for other in case.harmed(tried) if other != name]:
                effect = skill_changes(case.now, tried, [name])
                case.accept(edits, tried)
                yield Finding("overfitting", name, evidence, remedy(edits), edits, effect, (name,))
                break
        else:
            data = (
                "more samples, or features that tell it; check that each label stands in the row "
                "of its features. Neither dropout nor fewer epochs brought skill on the validation "
                "split"
            )
            yield Finding("overfitting", name, evidence, data)


def is_memorized(probe: Probe, task: str) -> bool:
    """True if a task is learned by heart: with skill on the training split, and none beyond it."""
    train, held_out = probe.skill(task), probe.skill(task, "validation")
    return probe.knows(task, "train") and train - held_out > APART and held_out <= 0


def _regularized(case: Case) -> Iterator[tuple[Edit, ...]]:
    """Edits that may prevent memorizing: more dropout, or fewer epochs."""
    model, epochs = case.spec.model, case.spec.train.epochs
    dropout = None if isinstance(model, Python) else model.dropout
    if dropout is not None and dropout.heads < 0.6:
        more = {**dropout.model_dump(), "input": max(dropout.input, 0.3), "heads": 0.6}
        yield (Edit(("model", "dropout"), more),)
    if epochs >= 4:
        yield (Edit(("train", "epochs"), epochs // 4),)
