"""What the test split says of a trial, and of a trial beside another: no choice depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from job.checkpoint.restore import restore
from job.data.dataset import load
from job.model.skill import CONFIDENCE, MOST_FREEDOM, Skill, measure_skill, student_t
from job.record.run_index import RunIndexStore
from job.spec import JobSpec, Task
from job.store import Missing, Store
from job.train.evaluate import Losses
from job.train.trainer import Trainer
from job.train.yardsticks import Counted, Yardsticks


class Gain(NamedTuple):
    """How far a task's test loss is below another trial's."""

    value: float
    """1 − loss / the other's loss."""
    low: float
    """Lower end of its 95 % interval, paired by sample."""
    high: float
    certain: bool
    """True if even an interval that holds for all tasks together (Bonferroni) keeps off 0."""


@dataclass(frozen=True)
class OnTest:
    """A run's last weights on its test split."""

    spec: JobSpec
    yardsticks: Yardsticks
    losses: Losses

    @property
    def skills(self) -> dict[str, Skill | None]:
        """By task; None where the split cannot tell one."""
        names = self.yardsticks.names
        return dict(zip(names, self.yardsticks.skills("validation", self.losses), strict=True))

    def gains(self, other: OnTest) -> dict[str, Gain]:
        """By task, how far the loss is below the other's; only where the losses compare."""
        if self.spec.data != other.spec.data:
            return {}
        tasks = [k for k, task in enumerate(self.spec.tasks) if _judged_alike(task, other.spec, k)]
        counted = self.yardsticks.counted["validation"]
        return {
            self.spec.tasks[k].name: _gain(self.losses, other.losses, k, counted[k], len(tasks))
            for k in tasks
        }


def on_test(spec: JobSpec, folder: Path, store: Store, run: str) -> OnTest | None:
    """The test split with the last weights of a finished run; None if the spec has no test.

    Raises InputError, Damaged, StoreError.
    """
    data = load(spec, folder, test=True)
    if data.test is None:
        return None
    index = RunIndexStore(store, run, fenced=False).read()
    found = restore(store, run, index, lambda *_: None) if index is not None else None
    if found is None:
        raise Missing(f"{store.url}/{run} has no checkpoint: it was removed from the store")
    training = Trainer(spec, data)
    training.restore(found.tensors, found.manifest.values)
    measured = training.on_test()
    return None if measured is None else OnTest(spec, *measured)


def _judged_alike(task: Task, other: JobSpec, k: int) -> bool:
    """True if both specs measure the task's loss in the same way, in original units."""
    return task.model_copy(update={"head": other.tasks[k].head}) == other.tasks[k]


def _gain(mine: Losses, its: Losses, k: int, counted: Counted, of: int) -> Gain:
    losses, others = (each.by_sample[k][counted.samples] for each in (mine, its))
    value, error, low = measure_skill(losses, others, counted.overlap)
    freedom = min(len(losses) // counted.overlap - 1, MOST_FREEDOM)
    beyond = student_t(1 - (1 - CONFIDENCE) / of, freedom) * error
    return Gain(value, low, 2 * value - low, certain=abs(value) > beyond)
