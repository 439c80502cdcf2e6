"""Travel budget: targets farther off than the optimizer can carry the outputs (job.reach)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from job.edit import Edit, edited
from job.finding import Case, Finding, told
from job.reach import Reach
from job.spec import CATEGORICAL, JobSpec
from job.tasks import TaskLoss

ENOUGH = 1.25
"""Times what is needed, that an edit has to bring within reach."""
SLOW = 0.1
"""Skill under which a task may lack reach."""
LONGER = 4
"""Times as many epochs, where nothing else is left to edit."""


def find(case: Case) -> Iterator[Finding]:
    """A finding for each task that is out of reach, the farthest first: stuck ones before slow."""
    reach = case.now.reach
    slow = [name for name in case.open if not case.now.foreseen(name) > SLOW]
    far = [name for name in slow if reach[name].least < 1]
    far = [name for name in far if name in case.stuck()] or far
    edits = _edits(case, far) if far else []
    tried = case.try_(*edits) if edits else None
    if tried is None:
        return
    helped = case.helped(tried, far)
    for name in sorted(helped, key=lambda name: reach[name].least):
        own = tuple(edit for edit in edits if _concerns(case, edit, name))
        after = case.measure(edited(case.spec, edits))[name].least
        effect = f"{told(case.now, tried, [name])}; the reach becomes {after:.2g} times the need"
        evidence, remedy = _evidence(case, name, reach[name]), "set " + ", ".join(map(str, own))
        yield Finding("travel_budget", name, evidence, remedy, own, effect, (name,))
    if helped:
        case.accept(edits, tried)


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
        if (spec := case.edited(*chosen, edit)) is None:
            continue
        after = case.measure(spec)
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
    if LONGER * spec.train.epochs < 2**31:
        yield Edit(("train", "epochs"), LONGER * spec.train.epochs)


def _evidence(case: Case, name: str, reach: Reach) -> str:
    """The numbers, in the task's own units where all outputs have one scale."""
    task = next(t for t in case.spec.tasks if t.name == name)
    loss = TaskLoss(task)
    loss.fit(case.first.data.train.targets[name])
    scale, what = float(loss.scale[0]), f" {task.unit}".rstrip()
    if task.loss.kind in CATEGORICAL:
        scale, what = 1.0, " logits"
    elif bool((loss.scale != loss.scale[0]).any()):
        scale, what = 1.0, " standard deviations"
    spread, level = reach.ratios
    if spread <= level:
        can, must, of = reach.spread, reach.apart, "its outputs apart by"
    else:
        can, must, of = reach.level, reach.gap, "its mean output by"
    rate = case.spec.optimizer.head_lr or case.spec.optimizer.lr
    return (
        f"with what its head reads, {case.now.planned} steps of AdamW at lr {rate:g} can move {of} "
        f"{can * scale:.2g}{what}, its targets ask for {must * scale:.2g}{what}: "
        f"{min(level, spread):.2g} of the way"
    )
