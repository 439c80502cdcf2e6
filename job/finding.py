"""What the diagnosis finds, and the case that it is found in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from job.edit import Edit, edited
from job.faults import InputError
from job.probe import Probe
from job.reach import Reach
from job.spec import JobSpec
from job.units import loss_unit

Mechanism = Literal[
    "blocked_path",
    "targets",
    "batch_noise",
    "learning_rate",
    "too_few_steps",
    "travel_budget",
    "saturated_loss",
    "uncertainty",
    "starved",
    "conflict",
    "overfitting",
    "uninformative",
]
"""Why a task does not learn, in the order in which one hides the next."""
KNOWS = 0.0
"""Skill from which a task has learned something."""
GAIN = 0.15
"""Share by which an edit must lower a task's loss in a probe to be a remedy: less may be noise."""
WORTH = 0.3
"""The same of a task that learns as it is."""


@dataclass(frozen=True)
class Finding:
    """One cause, measured."""

    mechanism: Mechanism
    task: str | None
    """None: of the whole run."""
    evidence: str
    """Numbers with units."""
    remedy: str
    """In words."""
    edits: tuple[Edit, ...] = ()
    """Of the spec; none where no edit of a spec can help."""
    effect: str = ""
    """What the edits, with those of the findings before, did in a probe of their own."""


@dataclass
class Case:
    """A spec under diagnosis: what was measured, and what has been found so far."""

    first: Probe
    """Of the spec as it is."""
    train: Callable[[JobSpec], Probe]
    """Probes another spec on the same data; raises InputError."""
    measure: Callable[[JobSpec], dict[str, Reach]]
    """The reach of another spec's heads, untrained."""
    now: Probe = field(init=False)
    """With the edits found so far."""
    edits: list[Edit] = field(default_factory=list)
    """Found so far."""
    closed: set[str] = field(default_factory=set)
    """Tasks of which nothing more can be told until what was found is mended."""

    def __post_init__(self) -> None:
        self.now = self.first

    @property
    def spec(self) -> JobSpec:
        """With the edits found so far."""
        return edited(self.first.spec, self.edits)

    def stuck(self) -> list[str]:
        """Tasks that end no better than their trivial prediction, as things are now."""
        open_ = (name for name in self.now.names if name not in self.closed)
        return [name for name in open_ if not self.now.foreseen(name) > KNOWS]

    def try_(self, *edits: Edit) -> Probe | None:
        """A probe with further edits; None where the spec is then invalid or cannot be trained."""
        try:
            found = self.train(edited(self.first.spec, [*self.edits, *edits]))
        except InputError:
            return None
        return None if found.broken else found

    def accept(self, edits: Iterable[Edit], measured: Probe) -> None:
        """Go on from a probe with these edits."""
        self.edits += edits
        self.now = measured

    def best(
        self,
        candidates: Sequence[tuple[Edit, ...]],
        tasks: Sequence[str],
        split: str = "train",
        at_any_cost: bool = False,
    ) -> tuple[tuple[Edit, ...], Probe] | None:
        """The edits that help the tasks most, if they help one of them enough and harm no other.

        at_any_cost: others may lose, as they do once a task that had no gradient has one.

        Help is how far both the loss at the end and the mean loss fell, in log, over the tasks.
        """
        found: list[tuple[float, tuple[Edit, ...], Probe]] = []
        for edits in candidates:
            tried = self.try_(*edits)
            if tried is None:
                continue
            stuck = self.stuck()
            helped = any(
                gain(self.now, tried, task, split)
                >= (GAIN if task in stuck or split == "validation" else WORTH)
                for task in tasks
            )
            others = [n for n in self.now.names if n not in tasks and n not in self.closed]
            harmed = any(_lost(self.now, tried, n, split) > GAIN for n in others)
            if helped and (at_any_cost or not harmed):
                found.append((sum(_help(self.now, tried, t, split) for t in tasks), edits, tried))
        if not found:
            return None
        _, edits, tried = max(found, key=lambda each: each[0])
        return edits, tried


def gain(before: Probe, after: Probe, task: str, split: str = "train") -> float:
    """The share by which a task's loss at the end of the probe is lower."""
    was = before.end(task, split)
    return 1 - after.end(task, split) / was if was > 0 else 0.0


def _lost(before: Probe, after: Probe, task: str, split: str) -> float:
    """By how much the skill fell, of a task that had some."""
    lost = min(before.skill(task, split), 1.0) - after.skill(task, split)
    return lost if before.skill(task, split) > KNOWS else 0.0


def _help(before: Probe, after: Probe, task: str, split: str) -> float:
    pairs = [
        (before.end(task, split), after.end(task, split)),
        (before.mean(task), after.mean(task)),
    ]
    return sum(math.log(was / max(now, 1e-12)) for was, now in pairs if was > 0)


def told(before: Probe, after: Probe, tasks: Iterable[str], split: str = "train") -> str:
    """What a probe with the edits showed, beside one without."""
    steps = after.looks[-1].step
    parts = [
        f"{task} {before.end(task, split):.3g} → {after.end(task, split):.3g}"
        f"{unit(after, task)} ({-gain(before, after, task, split):+.0%})"
        for task in tasks
    ]
    return f"{split} loss after {steps} steps: {', '.join(parts)}"


def unit(probe: Probe, task: str) -> str:
    """The unit of the task's loss, to be put behind a number."""
    (name,) = (loss_unit(t.loss.kind, t.unit) for t in probe.spec.tasks if t.name == task)
    return f" {name}" if name else ""
