"""Travel budget: targets farther off than the optimizer can carry the outputs (job.reach)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from job.edit import Edit, edited
from job.finding import Case, Finding, gain, told
from job.reach import Reach
from job.spec import CATEGORICAL, JobSpec
from job.tasks import TaskLoss

ENOUGH = 1.25
"""Times what is needed, that an edit has to bring within reach."""
SLOW = 0.1
"""Skill under which a task may lack reach."""
SOME = 0.05
"""Share by which a task's loss must fall in the probe, of several that are out of reach."""
LONGER = 4
"""Times as many epochs, where nothing else is left to edit."""


def find(case: Case) -> Iterator[Finding]:
    """A finding for each task that is out of reach, the farthest first: stuck ones before slow."""
    reach = case.now.reach
    slow = [name for name in case.now.names if not case.now.foreseen(name) > SLOW]
    far = [name for name in slow if name not in case.closed and reach[name].least < 1]
    far = [name for name in far if name in case.stuck()] or far
    if not far:
        return
    edits = _edits(case, far)
    tried = case.try_(*edits) if edits else None
    helped = [n for n in far if tried is not None and gain(case.now, tried, n) >= SOME]
    if not helped and not set(far) & set(case.stuck()):
        return
    for name in sorted(helped or far, key=lambda name: reach[name].least):
        effect = f"{told(case.now, tried, [name])}; " if tried is not None and helped else ""
        after = case.measure(edited(case.spec, edits))[name].least if edits else 0.0
        own = tuple(edit for edit in edits if _concerns(case, edit, name))
        yield Finding(
            "travel_budget",
            name,
            _evidence(case, name, reach[name]),
            "set " + ", ".join(map(str, own)) if own else "train for longer",
            own,
            f"{effect}the reach becomes {after:.2g} times the need" if edits else "",
        )
    case.accept(edits, tried or case.now)


def _concerns(case: Case, edit: Edit, name: str) -> bool:
    """Whether an edit is of the whole spec or of this task."""
    return edit.path[0] != "tasks" or case.now.names[int(edit.path[1])] == name


def _edits(case: Case, far: Sequence[str]) -> list[Edit]:
    """The first edits, in order of how little they change, that bring all within reach.

    Each is judged by the reach of an untrained network that has it, which costs no training.
    """
    chosen: list[Edit] = []
    reach = case.measure(case.spec)
    for edit in _candidates(case.spec, far):
        if all(reach[name].least >= ENOUGH for name in far):
            break
        after = case.measure(edited(case.spec, [*chosen, edit]))
        if _helps([reach[name] for name in far], [after[name] for name in far]):
            chosen.append(edit)
            reach = after
    return chosen


def _helps(before: Sequence[Reach], after: Sequence[Reach]) -> bool:
    """Whether something that is lacking comes nearer, and nothing that is goes farther off."""
    pairs = [
        (was, now)
        for a, b in zip(before, after, strict=True)
        for was, now in zip(a.ratios, b.ratios, strict=True)
    ]
    nearer = any(was < ENOUGH and now > 1.2 * was for was, now in pairs)
    return nearer and not any(now < min(ENOUGH, was / 1.2) for was, now in pairs)


def _candidates(spec: JobSpec, far: Sequence[str]) -> Iterator[Edit]:
    for k, task in enumerate(spec.tasks):
        plain = task.transform.kind == "none" and task.activation == "identity"
        if task.name in far and plain and task.loss.kind not in CATEGORICAL:
            yield Edit(("tasks", k, "transform"), {"kind": "standardize"})
    if spec.model.init.heads != "target_mean":
        yield Edit(("model", "init", "heads"), "target_mean")
    if spec.model.init.lstm != "orthogonal":
        yield Edit(("model", "init", "lstm"), "orthogonal")
    fast = spec.optimizer.head_lr or spec.optimizer.lr
    if fast < 1e-2:
        yield Edit(("optimizer", "head_lr"), float(f"{min(3 * fast, 1e-2):.2g}"))
    yield Edit(("train", "epochs"), LONGER * spec.train.epochs)


def _evidence(case: Case, name: str, reach: Reach) -> str:
    """The numbers in the task's own units."""
    task = next(t for t in case.spec.tasks if t.name == name)
    loss = TaskLoss(task)
    loss.fit(case.first.data.train.targets[name])
    in_units = float(loss.scale.mean())
    what = " logits" if task.loss.kind in CATEGORICAL else f" {task.unit}".rstrip()
    optimizer = case.spec.optimizer
    spread, level = reach.ratios
    if spread <= level:
        can, must, of = reach.spread, reach.apart, "its outputs apart by"
    else:
        can, must, of = reach.level, reach.gap, "its mean output by"
    rate = optimizer.head_lr or optimizer.lr
    return (
        f"{case.now.planned} steps of AdamW at lr {rate:g} can move {of} "
        f"{can * in_units:.2g}{what} at most, its targets ask for {must * in_units:.2g}{what}: "
        f"{min(level, spread):.2g} of the way"
    )
