"""What a search maximizes: the tasks' validation skills after the last epoch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from job.errors import Fault, InputError
from job.spec import JobSpec

Skills = Mapping[str, float | None]
"""By task; None where the split cannot tell one."""
OF_ALL: dict[str, Callable[[list[float]], float]] = {"mean": statistics.fmean, "min": min}


@dataclass(frozen=True)
class Objective:
    """One number of all tasks, one task's skill, or each task's as an objective of its own."""

    how: str
    """A task's name, `mean` or `min`; empty: each task's skill is an objective."""
    tasks: tuple[str, ...]
    """All tasks."""

    @classmethod
    def of(cls, how: str | None, spec: JobSpec) -> Objective:
        """From what the user wrote; raises InputError if that is no objective."""
        names = tuple(spec.task_names)
        if how is None:
            return cls(names[0] if len(names) == 1 else "", names)
        if how not in (*OF_ALL, *names):
            rule = f"it is mean, min or a task: {', '.join(names)}"
            raise InputError([Fault("--objective", how, rule, "name one of these")])
        return cls(how, names)

    @property
    def names(self) -> list[str]:
        """The objectives in words."""
        if self.how and self.how not in self.tasks:
            return [f"{self.how} validation skill"]
        return [f"validation skill of {task}" for task in self.needed]

    @property
    def single(self) -> bool:
        """True if there is one number, by which trials can be pruned."""
        return len(self.names) == 1

    def missing(self, skills: Skills) -> list[str]:
        """The tasks whose skill is needed and is no number."""
        return [task for task in self.needed if not _is_number(skills.get(task))]

    @property
    def needed(self) -> tuple[str, ...]:
        """The tasks whose skills are needed."""
        return (self.how,) if self.how in self.tasks else self.tasks

    def values(self, skills: Skills) -> list[float]:
        """The objectives' values; not numbers where a skill that is needed is missing."""
        if self.missing(skills):
            return [math.nan] * len(self.names)
        known = [float(skills[task] or 0) for task in self.needed]
        return [OF_ALL[self.how](known)] if self.how and self.how not in self.tasks else known


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
