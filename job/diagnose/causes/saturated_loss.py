"""Saturated loss: the gradient does not depend on the error, or is 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.model.labels import is_complete
from job.model.losses import TaskLoss
from job.spec import Huber, JobSpec, Python, Task
from job.spec.patch import Edit
from job.train.alarms.of_training import SATURATED

FLAT = 0.25
"""Share of elements that are wrong where the activation is flat, above which there is a finding."""


def flat_activations(case: Case) -> Iterator[Finding]:
    """Findings on activations that are flat where the prediction is wrong."""
    yield from _saturated(
        case, FLAT, [t for t in case.first.spec.tasks if t.activation != "identity"]
    )


def beyond_delta(case: Case) -> Iterator[Finding]:
    """Findings on elements beyond Huber's delta."""
    plain = [t for t in case.first.spec.tasks if t.activation == "identity"]
    yield from _saturated(case, SATURATED, plain)


def _saturated(case: Case, limit: float, tasks: Sequence[Task]) -> Iterator[Finding]:
    """Findings on those of the tasks that are stuck without edits."""
    first = case.first
    for task in tasks:
        name, share = task.name, first.saturated(task.name)
        k = first.names.index(name)
        if name in case.closed or share < limit or first.expected_skill(name) > 0:
            continue
        now = case.now.saturated(name)
        if now < limit:
            yield Finding(
                "saturated_loss",
                name,
                _evidence(first.spec, k, share),
                "the edits of the findings above",
                (),
                f"the share of such predictions becomes {now:.0%}",
            )
            continue
        best = case.best_edits(list(_candidates(case, k)), [name], at_any_cost=True)
        if best is None:
            continue
        edits, after = best
        effect = f"the share of such predictions becomes {after.saturated(name):.0%}; "
        effect += skill_changes(case.now, after, [name])
        evidence = _evidence(first.spec, k, share)
        words = remedy(edits)
        finding = Finding("saturated_loss", name, evidence, words, edits, effect, (name,))
        yield case.offer(finding, after)


def _evidence(spec: JobSpec, k: int, share: float) -> str:
    """The share of saturated elements, and what that means."""
    task = spec.tasks[k]
    if isinstance(task.loss, Huber) and task.activation == "identity":
        return (
            f"{share:.0%} of its predictions have an error beyond delta, {task.loss.delta:g}, of "
            f"its Huber loss: there the gradient is the same, however large the error is, so that "
            f"large errors and huge ones move the weights alike"
        )
    return (
        f"{share:.0%} of its predictions are wrong where its {task.activation} is flat: there "
        f"almost no gradient passes, so that training cannot put them right"
    )


def _candidates(case: Case, k: int) -> Iterator[tuple[Edit, ...]]:
    """Edits that may bring the elements out of saturation."""
    task = case.spec.tasks[k]
    if isinstance(task.loss, Huber):
        target = case.first.data.train.targets[task.name]
        loss = TaskLoss(task, partial=not is_complete(target))
        loss.fit(target)
        wide = float(f"{2 * loss.deviation(target).mean().item():.2g}")
        if wide > task.loss.delta:
            yield (Edit(("tasks", k, "loss", "delta"), wide),)
        if task.transform.kind == "none":
            yield (Edit(("tasks", k, "transform"), {"kind": "standardize"}),)
    if task.activation != "identity":
        model = case.spec.model
        if not isinstance(model, Python) and model.init.heads != "target_mean":
            yield (Edit(("model", "init", "heads"), "target_mean"),)
        yield (Edit(("tasks", k, "activation"), "identity"),)
