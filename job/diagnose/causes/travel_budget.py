"""Travel budget: the optimizer cannot move the outputs as far as the targets require."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.diagnose.reach import Reach
from job.model.labels import is_complete
from job.model.losses import TaskLoss
from job.spec import JobSpec, Lstm, Python
from job.spec.patch import Edit, edited

ENOUGH = 1.25
"""Reach over need that an edit has to bring."""
SLOW = 0.1
"""Skill below which a task may lack reach."""
LONGER = 4
"""Factor of the epochs, if no other edit is left."""


def findings(case: Case) -> Iterator[Finding]:
    """A finding for each task with too little reach, if edits help; the least reach first.

    If some of these tasks are stuck, slow ones are left out.
    """
    reach = case.now.reach
    slow = [name for name in case.open_tasks if not case.now.expected_skill(name) > SLOW]
    far = [name for name in slow if name in reach and reach[name].least < 1]
    far = [name for name in far if name in case.not_learning()] or far
    edits = _edits(case, far) if far else []
    if all(edit.path[0] in ("optimizer", "train") for edit in edits):
        return  # the targets are near enough: whether the rate is too low, a range test tells
    tried = case.probe_with(*edits) if edits else None
    if tried is None:
        return
    helped = () if case.harmed(tried) else case.helped(tried, far)
    for name in sorted(helped, key=lambda name: reach[name].least):
        own = tuple(edit for edit in edits if _concerns(case, edit, name))
        after = case.reach_of(edited(case.spec, edits))[name].least
        effect = (
            f"{skill_changes(case.now, tried, [name])}; the distance that the outputs can move "
            f"becomes {after:.2g} times the needed one"
        )
        evidence = _evidence(case, name, reach[name])
        yield Finding("travel_budget", name, evidence, remedy(own), own, effect, (name,))
    if helped:
        case.accept(edits, tried)


def _concerns(case: Case, edit: Edit, name: str) -> bool:
    """True if an edit is of the whole spec or of this task."""
    return edit.path[0] != "tasks" or case.now.names[int(edit.path[1])] == name


def _edits(case: Case, far: Sequence[str]) -> list[Edit]:
    """The edits that bring all the tasks enough reach; those that change little come first.

    An edit is judged by the reach of an untrained network with it, which costs no training.
    """
    chosen: list[Edit] = []
    reach = case.reach_of(case.spec)
    for edit in _candidates(case.spec, far):
        if all(reach[name].least >= ENOUGH for name in far):
            break
        if (spec := case.edited(*chosen, edit)) is None:
            continue
        after = case.reach_of(spec)
        if _helps([reach[name] for name in far], [after[name] for name in far]):
            chosen.append(edit)
            reach = after
    return chosen


def _helps(before: Sequence[Reach], after: Sequence[Reach]) -> bool:
    """True if a reach that is too small grows, and no other becomes too small."""
    pairs = [
        (was, now)
        for a, b in zip(before, after, strict=True)
        for was, now in zip(a.ratios, b.ratios, strict=True)
    ]
    nearer = any(was < ENOUGH and now > 1.2 * was for was, now in pairs)
    return nearer and not any(now < min(ENOUGH, was / 1.2) for was, now in pairs)


def _candidates(spec: JobSpec, far: Sequence[str]) -> Iterator[Edit]:
    """Edits that may increase reach or decrease need; those that change little come first."""
    for k, task in enumerate(spec.tasks):
        plain = task.transform.kind == "none" and task.activation == "identity"
        if task.name in far and plain and not task.loss.untransformed:
            yield Edit(("tasks", k, "transform"), {"kind": "standardize"})
    if not isinstance(spec.model, Python) and spec.model.init.heads != "target_mean":
        yield Edit(("model", "init", "heads"), "target_mean")
    if isinstance(spec.model, Lstm) and spec.model.init.lstm != "orthogonal":
        yield Edit(("model", "init", "lstm"), "orthogonal")
    fast = spec.optimizer.head_lr or spec.optimizer.lr
    if fast < 1e-2:
        yield Edit(("optimizer", "head_lr"), float(f"{min(3 * fast, 1e-2):.2g}"))
    if LONGER * spec.train.epochs < 2**31:
        yield Edit(("train", "epochs"), LONGER * spec.train.epochs)


def _evidence(case: Case, name: str, reach: Reach) -> str:
    """Possible and needed distance, in the task's units if all its outputs have one scale."""
    task = next(t for t in case.spec.tasks if t.name == name)
    target = case.first.data.train.targets[name]
    loss = TaskLoss(task, partial=not is_complete(target))
    loss.fit(target)
    scale, what = float(loss.scale[0]), f" {task.unit}".rstrip()
    if task.loss.untransformed:
        scale, what = 1.0, f" {task.loss.reads}"
    elif bool((loss.scale != loss.scale[0]).any()):
        scale, what = 1.0, " standard deviations"
    spread, level = reach.ratios
    if spread <= level:
        can, must, moved = reach.spread, reach.apart, "two outputs apart by at most"
    else:
        can, must, moved = reach.level, reach.gap, "its mean output by at most"
    rate = case.spec.optimizer.head_lr or case.spec.optimizer.lr
    adam = "Adam" if case.spec.optimizer.kind == "adam" else "AdamW"  # which updates Muon's heads
    return (
        f"a step of {adam} changes a weight by about the learning rate, however large the error. "
        f"So {case.now.planned} steps at lr {rate:g} can move {moved} {can * scale:.2g}{what}, but "
        f"its targets need {must * scale:.2g}{what}: {min(level, spread):.2g} of the way"
    )
