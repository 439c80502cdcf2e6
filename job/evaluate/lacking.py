"""Why a skill or a metric of some data has no value, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from job.events import FinalTest
from job.events.gates import needs

Reasons = dict[str, dict[str, str]]
"""By task and by what has no value, `skill` or a metric's name, why."""


def lacking(test: FinalTest) -> Reasons:
    """Of the tasks that lack something."""
    found: Reasons = {}
    for name, task in test.tasks.items():
        of_skill = {"skill": test.unmeasurable[name]} if name in test.unmeasurable else {}
        of_metrics = {
            metric: f"it needs {needs(metric)}, and finite predictions"
            for metric, value in task.metrics.items()
            if value is None
        }
        if each := of_skill | of_metrics:
            found[name] = each
    return found


def in_words(test: FinalTest) -> Iterator[str]:
    """A line for each reason."""
    for what, why, tasks in _by_reason(lacking(test)):
        yield f"no {what} of {tasks}: {why}"


def in_words_of_slices(slices: Mapping[str, FinalTest]) -> Iterator[str]:
    """A line for each reason, with the slices that have it."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, test in slices.items():
        for reason in _by_reason(lacking(test)):
            found.setdefault(reason, []).append(f'"{name}"')
    for (what, why, tasks), names in found.items():
        yield f"no {what} of {tasks} in {', '.join(names)}: {why}"


def _by_reason(reasons: Reasons) -> Iterator[tuple[str, str, str]]:
    """What has no value, why, and the names of the tasks, for each pair of the first two."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for task, each in reasons.items():
        for what, why in each.items():
            tasks.setdefault((what, why), []).append(task)
    for (what, why), names in tasks.items():
        yield what, why, ", ".join(names)
