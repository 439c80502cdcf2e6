"""What all trials of a search share, so that their skills compare: held-out samples and tasks."""

from __future__ import annotations

from collections.abc import Iterator

from job.errors import Fault
from job.spec import Arrays, JobSpec

SPLIT = ("validation", "test", "split", "seed")
"""Fields of stored arrays that say which samples are held out."""
TARGET = ("name", "target")
"""Fields of a task that say what is predicted."""


def incomparable(spec: JobSpec, base: JobSpec, where: str) -> Fault | None:
    """Why a trial of `spec` does not compare with one of `base`; None if it does.

    where: what the trial has set, for the fault.
    """
    for name in _differences(spec, base):
        found = f"another {name} than the spec's"
        rule = "trials are compared on the same held-out samples and the same tasks"
        return Fault(where, found, rule, "remove it: the spec sets it for all trials")
    return None


def _differences(spec: JobSpec, base: JobSpec) -> Iterator[str]:
    """The paths of the fields that no two trials may differ in, and these do."""
    yield from (f"data.{field}" for field in _unlike(spec.data, base.data, _held_out(base)))
    if len(spec.tasks) != len(base.tasks):
        yield "number of tasks"
    for k, (mine, its) in enumerate(zip(spec.tasks, base.tasks, strict=False)):
        yield from (f"tasks[{k}].{field}" for field in _unlike(mine, its, TARGET))


def _held_out(base: JobSpec) -> tuple[str, ...]:
    """The fields of `data` that say which samples are held out; of windows of bars it is all."""
    return SPLIT if isinstance(base.data, Arrays) else tuple(type(base.data).model_fields)


def _unlike(one: object, other: object, fields: tuple[str, ...]) -> Iterator[str]:
    return (field for field in fields if getattr(one, field, None) != getattr(other, field, None))
