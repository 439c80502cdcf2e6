"""A finding, and the case under diagnosis: the probes so far and the edits that helped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from job.diagnose.probe import Probe
from job.diagnose.reach import Reach
from job.errors import InputError
from job.spec import JobSpec
from job.spec.losses import loss_unit
from job.spec.patch import Edit, edited

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
"""Why a task does not learn, in an order in which an earlier cause may hide a later one."""
KNOWS = 0.005
"""Skill above which a task has learned something."""
GAIN = 0.15
"""Share by which an edit must lower a stuck task's loss in a probe to help; less may be noise."""
WORTH = 0.3
"""The same for a task that learns without the edit."""
RISEN = 0.05
"""Rise of skill that an edit must give such a task."""


@dataclass(frozen=True)
class Finding:
    """A cause with its evidence and remedy."""

    mechanism: Mechanism
    task: str | None
    """The task; None if the cause concerns the whole run."""
    evidence: str
    """Numbers with units."""
    remedy: str
    """What to do, in words."""
    edits: tuple[Edit, ...] = ()
    """Edits of the spec; empty if no edit of a spec can help."""
    effect: str = ""
    """What the edits, with those of earlier findings, changed in a probe."""
    helped: tuple[str, ...] = ()
    """Tasks whose loss the edits lowered."""
    split: str = "train"
    """Split of the loss that they lowered."""


@dataclass
class Case:
    """A spec under diagnosis: its probes, and the edits accepted so far."""

    original: JobSpec
    """The spec without edits, with its gates."""
    first: Probe
    """Probe of the original spec."""
    run_probe: Callable[[JobSpec], Probe]
    """Probes another spec on the same data; raises InputError."""
    reach_of: Callable[[JobSpec], dict[str, Reach]]
    """Reach of another spec's heads before training."""
    until: float = math.inf
    """Time of the monotonic clock after which nothing more is tried."""
    now: Probe = field(init=False)
    """Probe with the edits accepted so far."""
    edits: list[Edit] = field(default_factory=list)
    """The edits accepted so far."""
    closed: set[str] = field(default_factory=set)
    """Tasks with a finding that must be mended before anything else about them can be judged."""

    def __post_init__(self) -> None:
        self.now = self.first

    @property
    def spec(self) -> JobSpec:
        """The spec with the edits accepted so far."""
        return edited(self.original, self.edits)

    @property
    def late(self) -> bool:
        """True if the time limit is over."""
        return time.monotonic() > self.until

    def not_learning(self) -> list[str]:
        """Open tasks that, with the edits so far, do not beat their trivial prediction."""
        return [name for name in self.open_tasks if not self.now.expected_skill(name) > KNOWS]

    def edited(self, *edits: Edit) -> JobSpec | None:
        """The spec with further edits; None if that is invalid."""
        try:
            return edited(self.original, [*self.edits, *edits])
        except InputError:
            return None

    def probe_with(self, *edits: Edit) -> Probe | None:
        """A probe with further edits; None if it is invalid, not finite or out of time."""
        spec = self.edited(*edits)
        if spec is None or self.late:
            return None
        try:
            tried = self.run_probe(spec)
        except InputError:  # torchjd may be missing
            return None
        return None if tried.not_finite or tried.cut else tried

    def accept(self, edits: Iterable[Edit], measured: Probe) -> None:
        """Keep these edits, of which `measured` is the probe."""
        self.edits += edits
        self.now = measured

    def best_edits(
        self,
        candidates: Sequence[tuple[Edit, ...]],
        tasks: Sequence[str],
        split: str = "train",
        at_any_cost: bool = False,
    ) -> tuple[tuple[Edit, ...], Probe] | None:
        """The candidate that helps the tasks most, with its probe; None if no candidate helps.

        A candidate must help one of the tasks enough and harm none. at_any_cost: it may harm
        others, as happens when a task without gradient gets one. Candidates are compared by how
        far the tasks' losses at the end and mean losses fall, in log.
        """
        helpful: list[tuple[float, tuple[Edit, ...], Probe]] = []
        for edits in candidates:
            tried = self.probe_with(*edits)
            if tried is None:
                continue
            harmed = any(_lost(self.now, tried, n, split) > GAIN for n in self.open_tasks)
            if self.helped(tried, tasks, split) and (at_any_cost or not harmed):
                helpful.append((sum(_help(self.now, tried, t, split) for t in tasks), edits, tried))
        if not helpful:
            return None
        _, edits, tried = max(helpful, key=lambda each: each[0])
        return edits, tried

    @property
    def open_tasks(self) -> list[str]:
        """Tasks that are not closed."""
        return [name for name in self.now.names if name not in self.closed]

    def helped(self, tried: Probe, tasks: Iterable[str], split: str = "train") -> tuple[str, ...]:
        """The tasks whose loss in a probe is lower by enough."""
        stuck = self.not_learning()
        return tuple(
            task
            for task in tasks
            if gain(self.now, tried, task, split) >= GAIN
            and (task in stuck or split == "validation" or self._is_worth(tried, task))
        )

    def _is_worth(self, tried: Probe, task: str) -> bool:
        """True if a task that already learns learns much more in a probe."""
        risen = tried.skill(task) - self.now.skill(task)
        return gain(self.now, tried, task) >= WORTH and risen >= RISEN


def gain(before: Probe, after: Probe, task: str, split: str = "train") -> float:
    """The share by which a task's loss at the end of the probe is lower."""
    was = before.end(task, split)
    return 1 - after.end(task, split) / was if was > 0 else 0.0


def _lost(before: Probe, after: Probe, task: str, split: str) -> float:
    """The fall of a task's skill; 0 for a task without skill before."""
    lost = min(before.skill(task, split), 1.0) - after.skill(task, split)
    return lost if before.skill(task, split) > KNOWS else 0.0


def _help(before: Probe, after: Probe, task: str, split: str) -> float:
    """How far a task's losses fell, in log."""
    pairs = [
        (before.end(task, split), after.end(task, split)),
        (before.mean(task), after.mean(task)),
    ]
    return sum(math.log(was / max(now, 1e-12)) for was, now in pairs if was > 0)


def loss_changes(before: Probe, after: Probe, tasks: Iterable[str], split: str = "train") -> str:
    """The tasks' losses at the end of two probes, in words."""
    steps = after.evaluations[-1].step
    parts = [
        f"{task} {before.end(task, split):.3g} → {after.end(task, split):.3g}"
        f"{f' {u}' if (u := unit(after, task)) else ''} ({-gain(before, after, task, split):+.0%})"
        for task in tasks
    ]
    return f"{split} loss after {steps} steps: {', '.join(parts)}"


def remedy(edits: Iterable[Edit]) -> str:
    """The remedy that consists of edits, in words."""
    return "set " + ", ".join(map(str, edits))


def unit(probe: Probe, task: str) -> str:
    """The unit of a task's loss."""
    section = next(t for t in probe.spec.tasks if t.name == task)
    return loss_unit(section.loss.kind, section.unit)
