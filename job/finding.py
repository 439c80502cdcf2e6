"""What the diagnosis finds, and the case that it is found in."""

from __future__ import annotations

import math
import time
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
    "not_finite",
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
KNOWS = 0.005
"""Skill from which a task has learned something."""
GAIN = 0.15
"""Share by which an edit must lower a task's loss in a probe to be a remedy: less may be noise."""
WORTH = 0.3
"""The same of a task that learns as it is; and its skill must rise by RISEN."""
RISEN = 0.05


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
    helped: tuple[str, ...] = ()
    """Tasks whose loss they lowered there."""
    split: str = "train"
    """Of the loss that they lowered."""


@dataclass
class Case:
    """A spec under diagnosis: what was measured, and what has been found so far."""

    whole: JobSpec
    """The spec as it is, gates and all."""
    first: Probe
    """Of it."""
    train: Callable[[JobSpec], Probe]
    """Probes another spec on the same data; raises InputError."""
    measure: Callable[[JobSpec], dict[str, Reach]]
    """The reach of another spec's heads, untrained."""
    until: float = math.inf
    """When to stop trying, by the monotonic clock."""
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
        return edited(self.whole, self.edits)

    @property
    def late(self) -> bool:
        """Whether there is no time left to try anything."""
        return time.monotonic() > self.until

    def stuck(self) -> list[str]:
        """Tasks that end no better than their trivial prediction, as things are now."""
        return [name for name in self.open if not self.now.foreseen(name) > KNOWS]

    def edited(self, *edits: Edit) -> JobSpec | None:
        """The spec with further edits; None where it is then invalid."""
        try:
            return edited(self.whole, [*self.edits, *edits])
        except InputError:
            return None

    def try_(self, *edits: Edit) -> Probe | None:
        """A probe with further edits; None where it is invalid, not finite, or too late."""
        spec = self.edited(*edits)
        if spec is None or self.late:
            return None
        try:
            found = self.train(spec)
        except InputError:  # torchjd may be missing
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
        """The edits that help the tasks most, if they help one of them enough and harm none.

        at_any_cost: others may lose, as they do once a task that had no gradient has one.
        Help is how far both the loss at the end and the mean loss fell, in log, over the tasks.
        """
        found: list[tuple[float, tuple[Edit, ...], Probe]] = []
        for edits in candidates:
            tried = self.try_(*edits)
            if tried is None:
                continue
            harmed = any(_lost(self.now, tried, n, split) > GAIN for n in self.open)
            if self.helped(tried, tasks, split) and (at_any_cost or not harmed):
                found.append((sum(_help(self.now, tried, t, split) for t in tasks), edits, tried))
        if not found:
            return None
        _, edits, tried = max(found, key=lambda each: each[0])
        return edits, tried

    @property
    def open(self) -> list[str]:
        """Tasks of which something may still be told."""
        return [name for name in self.now.names if name not in self.closed]

    def helped(self, tried: Probe, tasks: Iterable[str], split: str = "train") -> tuple[str, ...]:
        """Those of the tasks whose loss is lower by enough."""
        stuck = self.stuck()
        return tuple(
            task
            for task in tasks
            if gain(self.now, tried, task, split) >= GAIN
            and (task in stuck or split == "validation" or self._is_worth(tried, task))
        )

    def _is_worth(self, tried: Probe, task: str) -> bool:
        """Whether a task that learns as it is learns much more."""
        risen = tried.skill(task) - self.now.skill(task)
        return gain(self.now, tried, task) >= WORTH and risen >= RISEN


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
        f"{f' {u}' if (u := unit(after, task)) else ''} ({-gain(before, after, task, split):+.0%})"
        for task in tasks
    ]
    return f"{split} loss after {steps} steps: {', '.join(parts)}"


def unit(probe: Probe, task: str) -> str:
    """The unit of a task's loss."""
    found = next(t for t in probe.spec.tasks if t.name == task)
    return loss_unit(found.loss.kind, found.unit)
