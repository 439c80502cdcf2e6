"""Conflict: two tasks pull the shared trunk in opposite directions."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.spec import Conv1d, Conv2d, Lstm, Mlp, Transformer
from job.spec.patch import Edit
from job.train.alarms.of_training import OPPOSED

WIDE = 128
"""Features of z that are enough for any two tasks here."""
PAIRS = 3
"""Number of opposed pairs for which remedies are tried."""


def findings(case: Case) -> Iterator[Finding]:
    """Findings on pairs of tasks with opposed gradients, if an edit helps both of them."""
    tried: set[tuple[str, str]] = set()
    while len(tried) < PAIRS and (pairs := [p for p in _opposed(case) if p not in tried]):
        tried.add(pairs[0])
        a, b = pairs[0]
        best = case.best_edits(list(_remedies(case)), pairs[0])
        if best is None:
            continue
        edits, after = best
        harmed = max(pairs[0], key=lambda name: after.skill(name) - case.now.skill(name))
        other, effect = b if harmed == a else a, case.now.effects[harmed]
        yield Finding(
            "conflict",
            harmed,
            f"in the layers that the tasks share it pulls against {other}: their mean cosine is "
            f"{case.now.cosines[a][b]:.2f} (1: both gradients ask for the same change, 0: they "
            f"have nothing to do with each other, -1: each asks for what harms the other). "
            f"What {effect.steps} measured steps did to those layers changed its loss by "
            f"{effect.measured:+.1%} in all (the gradients predict {effect.predicted:+.1%})",
            remedy(edits),
            edits,
            skill_changes(case.now, after, [a, b]),
            case.helped(after, pairs[0]),
        )
        case.accept(edits, after)


def _opposed(case: Case) -> list[tuple[str, str]]:
    """Opposed pairs of tasks, by their mean cosine, the most opposed first."""
    names, cosines = case.open_tasks, case.now.cosines
    pairs = [
        (cosines[a][b], a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if cosines.get(a, {}).get(b, 0.0) < OPPOSED
    ]
    return [(a, b) for _, a, b in sorted(pairs)]


def _remedies(case: Case) -> Iterator[tuple[Edit, ...]]:
    """Edits that may end a conflict: a balancer against conflicts, or a wider trunk."""
    for method in ("UPGrad", "AlignedMTL"):
        yield (Edit(("balance",), {"kind": "torchjd", "method": method}),)
    match case.spec.model:
        case Lstm(hidden=width) if width < WIDE:
            yield (Edit(("model", "hidden"), min(4 * width, WIDE)),)
        case Mlp(hidden=(*before, width)) if width < WIDE:
            yield (Edit(("model", "hidden"), [*before, min(4 * width, WIDE)]),)
        case Conv1d(width=width) | Conv2d(width=width) | Transformer(width=width) if width < WIDE:
            yield (Edit(("model", "width"), min(4 * width, WIDE)),)
