"""What a run says of a task that does not learn, while it trains; no alarm stops it.

Each is told with its evidence; `python -m job diagnose` measures further, and names an edit.

An alarm is raised when its sign has stood for LASTING epochs in a row, and again only after the
sign has been away for as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from job.balance import LARGEST_LOG
from job.baseline import Baseline
from job.events import Alarm, Epoch, EpochTask
from job.position import Position
from job.spec import JobSpec, Uncertainty
from job.tasks import TaskLoss
from job.units import loss_unit

LASTING = 2
"""Epochs."""
SPAN = 4
"""Epochs over which a task's pace is taken: a loss goes up and down."""
FAR = 1.5
"""Times the trivial prediction's loss, beyond which a task is far from having learned anything."""
PATIENCE = 3
"""Times the run's length: a task that would need longer to become trivial stands still."""
WORSE = 1.05
"""Times the best constant's loss, from which a task is worse than it: less may be noise."""
LEAST = 5
"""Epochs before which no task is expected to know more than a constant."""
STARVED = 0.1
"""Of an even share of the gradient at z."""
SATURATED = 0.8
"""Share of a task's elements at which its loss hardly tells how wrong they are."""
OPPOSED = -0.25
"""Mean cosine, below which two gradients work against each other."""
HARMED = -0.1
"""Mean cosine with the combined gradient, below which a step undoes what the task has learned."""
FURTHER = "Why: `python -m job diagnose SPEC`"
"""What every message ends with."""
OFF = math.log(2)
"""Of a weight to where it would rest, in log."""
OUTSIDE = 0.01
"""Share of targets beyond an activation's reach, from which it is told: a few may be outliers."""
RANGES = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, math.inf)}
"""What an activation can reach, in transformed units."""


class Sign(NamedTuple):
    """Something amiss with a task, at one epoch."""

    kind: str
    message: str


class Watch:
    """Looks at a run's epochs; what it remembers of them is in the run's position."""

    def __init__(self, spec: JobSpec, baselines: Sequence[Baseline]) -> None:
        self.epochs, self.even = spec.train.epochs, 1 / len(spec.tasks)
        self.baselines = dict(zip(spec.task_names, baselines, strict=True))
        units = {task.name: loss_unit(task.loss.kind, task.unit) for task in spec.tasks}
        self.units = {name: f" {unit}" if unit else "" for name, unit in units.items()}
        self.balance = spec.balance

    def look(self, epoch: Epoch, at: Position) -> Iterator[Alarm]:
        """The alarms after an epoch; `at` remembers losses and signs."""
        for name, task in epoch.tasks.items():
            found = {sign.kind: sign for sign in self._signs(name, task, epoch.epoch, at)}
            at.losses[name] = [*at.losses.get(name, []), task.train_loss_original][-SPAN:]
            for kind in {*found, *at.signs.get(name, {})}:
                if self._lasts(at, name, kind, kind in found):
                    message = f"{found[kind].message}. {FURTHER}"
                    yield Alarm(kind=kind, message=message, step=epoch.step, task=name)

    def _signs(self, name: str, task: EpochTask, epoch: int, at: Position) -> Iterator[Sign]:
        loss, trivial = task.train_loss_original, self.baselines[name].strongest("train")
        before, unit = at.losses.get(name, []), self.units[name]
        gap, pace = loss - trivial, (before[0] - loss) / len(before) if before else math.nan
        if loss > FAR * trivial and pace * PATIENCE * self.epochs < gap:
            now = f"{loss:.3g}{unit}"
            yield Sign(
                "task_starving" if task.grad_share < STARVED * self.even else "task_stalled",
                f"{name}: its loss, {now}, is {_times(loss, trivial)} the trivial prediction's "
                f"({trivial:.3g}) and {self._course(pace, gap)}. Its share of the gradient at z is "
                f"{task.grad_share:.1%}",
            )
        constant = self.baselines[name].constant["train"]
        if epoch >= max(LEAST, self.epochs / 2) and loss > WORSE * constant:
            yield Sign(
                "worse_than_constant",
                f"{name}: after {epoch} of {self.epochs} epochs its loss, {loss:.4g}{unit}, is "
                f"above that of the best constant prediction, {constant:.4g}",
            )
        if task.saturated > SATURATED:
            yield Sign(
                "loss_saturated",
                f"{name}: at {task.saturated:.0%} of its elements the loss is saturated: its "
                f"gradient does not tell how far off they are",
            )
        yield from self._conflict(name, task)
        yield from self._frozen(name, task, epoch)

    def _course(self, pace: float, gap: float) -> str:
        """Where a loss goes, of which a gap is left to the trivial prediction's."""
        if pace > 0:
            needed = f"{gap / pace:.0f} epochs to come down to that"
            return f"falls by {pace:.2g} an epoch: it needs {needed}, and the run has {self.epochs}"
        return f"rises by {-pace:.2g} an epoch" if pace < 0 else "does not fall"

    @staticmethod
    def _conflict(name: str, task: EpochTask) -> Iterator[Sign]:
        """Whether the steps go against the task, and which other one it is opposed to most."""
        if not task.cosines:
            return
        other, cosine = min(task.cosines.items(), key=lambda pair: pair[1])
        if cosine < OPPOSED and task.cosine < HARMED:
            yield Sign(
                "conflict",
                f"{name}: its gradient at z has a cosine of {cosine:.2f} with {other}'s and of "
                f"{task.cosine:.2f} with the combined one: steps raise its loss",
            )

    def _frozen(self, name: str, task: EpochTask, epoch: int) -> Iterator[Sign]:
        """Whether a learned weight is far from where it would rest, and cannot come there."""
        if not isinstance(self.balance, Uncertainty) or not 0 < task.train_loss < math.inf:
            return
        by_hand = self.balance.weights.get(name, 1.0)
        start, rest = 0.5 * by_hand, resting_weight(by_hand, task.train_loss)
        gap = abs(math.log(rest / task.weight))
        pace = abs(math.log(task.weight / start)) / epoch
        if gap > OFF and gap > pace * (self.epochs - epoch):
            yield Sign(
                "sigma_frozen",
                f"{name}: its learned weight is {task.weight:.3g} after {epoch} epochs, would rest "
                f"at {by_hand:g}/(2 loss) = {rest:.3g} and is too slow to come there in this run",
            )

    @staticmethod
    def _lasts(at: Position, name: str, kind: str, shown: bool) -> bool:
        """Count a sign, up while it is shown and down while not; whether it is to be told now.

        Counts run from 0 to LASTING; a negative one is of an alarm that was raised.
        """
        counts = at.signs.setdefault(name, {})
        count = counts.get(kind, 0)
        if count < 0:  # raised: forget it once it has been away for long enough
            counts[kind] = -LASTING if shown else count + 1
            return False
        counts[kind] = count + 1 if shown else 0
        if counts[kind] < LASTING:
            return False
        counts[kind] = -LASTING
        return True


def _times(loss: float, trivial: float) -> str:
    return f"{loss / trivial:.1f} times" if trivial > 0 else "above"


def resting_weight(by_hand: float, loss: float) -> float:
    """Where a learned weight rests: w / (2 loss), as far as its log variance may go."""
    return 0.5 * by_hand * math.exp(-min(max(math.log(loss), -LARGEST_LOG), LARGEST_LOG))


def outside(activation: str, wanted: Tensor) -> float:
    """Share of the elements, in transformed units, that an activation of RANGES cannot reach."""
    low, high = RANGES[activation]
    return ((wanted < low) | (wanted > high)).double().mean().item()


def out_of_range(losses: Sequence[TaskLoss], targets: dict[str, Tensor]) -> Iterator[Alarm]:
    """Tasks whose activation cannot reach some of their training targets."""
    for loss in losses:
        if loss.task.activation not in RANGES:
            continue
        low, high = RANGES[loss.task.activation]
        wanted = (targets[loss.task.name] - loss.shift.cpu()) / loss.scale.cpu()
        share = outside(loss.task.activation, wanted)
        if share >= OUTSIDE:
            yield Alarm(
                kind="targets_out_of_range",
                message=f"{loss.task.name}: {share:.1%} of its training targets lie outside of "
                f"what {loss.task.activation} can reach, [{low:g}, {high:g}]",
                step=0,
                task=loss.task.name,
            )
