"""Saturated losses: what is far off pulls no harder than what is near, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from job.alarms import SATURATED
from job.edit import Edit
from job.finding import Case, Finding, told
from job.spec import Huber, JobSpec, Task
from job.tasks import TaskLoss

FLAT = 0.25
"""Share of elements that are wrong where the activation is flat, from which it is a finding."""


def flat(case: Case) -> Iterator[Finding]:
    """Findings of activations that are flat where they are wrong."""
    yield from _find(case, FLAT, [t for t in case.first.spec.tasks if t.activation != "identity"])


def beyond(case: Case) -> Iterator[Finding]:
    """Findings of elements beyond Huber's delta."""
    plain = [t for t in case.first.spec.tasks if t.activation == "identity"]
    yield from _find(case, SATURATED, plain)


def _find(case: Case, limit: float, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Of tasks that were stuck as the spec stood."""
    first = case.first
    for task in tasks:
        name, share = task.name, first.saturated(task.name)
        k = first.names.index(name)
        if name in case.closed or share < limit or first.foreseen(name) > 0:
            continue
        now = case.now.saturated(name)
        if now < limit:
            yield Finding(
                "saturated_loss",
                name,
                _evidence(first.spec, k, share),
                "what is set above",
                (),
                f"saturated at {share:.0%} → {now:.0%} of its elements",
            )
            continue
        best = case.best(list(_candidates(case, k)), [name], at_any_cost=True)
        if best is None:
            continue
        edits, after = best
        effect = f"{share:.0%} → {after.saturated(name):.0%} saturated; "
        effect += told(case.now, after, [name])
        case.accept(edits, after)
        remedy = "set " + ", ".join(map(str, edits))
        evidence = _evidence(first.spec, k, share)
        yield Finding("saturated_loss", name, evidence, remedy, edits, effect, (name,))


def _evidence(spec: JobSpec, k: int, share: float) -> str:
    task = spec.tasks[k]
    if isinstance(task.loss, Huber) and task.activation == "identity":
        return (
            f"{share:.0%} of its elements lie beyond Huber's delta of {task.loss.delta:g}: there "
            f"the gradient is the same, however far off they are"
        )
    return f"{share:.0%} of its elements are wrong where its {task.activation} is flat"


def _candidates(case: Case, k: int) -> Iterator[tuple[Edit, ...]]:
    task = case.spec.tasks[k]
    if isinstance(task.loss, Huber):
        target = case.first.data.train.targets[task.name]
        loss = TaskLoss(task)
        loss.fit(target)
        wanted = ((target - loss.shift) / loss.scale).double()
        wide = float(f"{2 * wanted.flatten(0, -2).std(0, correction=0).mean().item():.2g}")
        if wide > task.loss.delta:
            yield (Edit(("tasks", k, "loss", "delta"), wide),)
        if task.transform.kind == "none":
            yield (Edit(("tasks", k, "transform"), {"kind": "standardize"}),)
    if task.activation != "identity":
        if case.spec.model.init.heads != "target_mean":
            yield (Edit(("model", "init", "heads"), "target_mean"),)
        yield (Edit(("tasks", k, "activation"), "identity"),)
