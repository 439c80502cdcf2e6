"""Overfitting: the training split is learned, the validation split is not."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding, loss_changes, remedy
from job.spec import Python
from job.spec.patch import Edit

APART = 0.5
"""Gap between the skills on the training and validation split, above which a task is memorized."""


def findings(case: Case) -> Iterator[Finding]:
    """Findings on memorized tasks, with skill on the training split only, if an edit helps."""
    for name in case.now.names:
        now = case.now
        train, held_out = now.skill(name), now.skill(name, "validation")
        if name not in case.open_tasks or not train - held_out > APART or held_out > 0:
            continue
        best = case.best_edits(list(_regularized(case)), [name], "validation")
        if best is None:
            continue
        edits, after = best
        evidence = (
            f"its skill is {train:.0%} on the training split and {held_out:.0%} on the validation "
            f"split: it is learned by heart, and what is learned does not hold for other samples"
        )
        effect = loss_changes(now, after, [name], "validation")
        case.accept(edits, after)
        yield Finding(
            "overfitting", name, evidence, remedy(edits), edits, effect, (name,), split="validation"
        )


def _regularized(case: Case) -> Iterator[tuple[Edit, ...]]:
    """Edits that may prevent memorizing: more dropout, or fewer epochs."""
    model, epochs = case.spec.model, case.spec.train.epochs
    dropout = None if isinstance(model, Python) else model.dropout
    if dropout is not None and dropout.heads < 0.6:
        more = {**dropout.model_dump(), "input": max(dropout.input, 0.3), "heads": 0.6}
        yield (Edit(("model", "dropout"), more),)
    if epochs >= 4:
        yield (Edit(("train", "epochs"), epochs // 4),)
