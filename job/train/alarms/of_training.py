"""Alarms: a run reports, while it trains, that a task does not learn. No alarm stops a run.

Each message has its evidence. `python -m job diagnose` measures more, and proposes an edit.

An alarm is raised once its sign has lasted LASTING epochs in a row. It is raised again only after
the sign was absent for LASTING epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from job.balance.uncertainty import resting_weight
from job.events import Alarm, Epoch, EpochTask, Worth
from job.model.baselines import Baseline
from job.model.losses import RANGES, TaskLoss, share_outside
from job.spec import JobSpec, Uncertainty
from job.spec.losses import loss_unit
from job.train.alarms.of_updates import FREE, UpdateSizes
from job.train.gradients.ownership import Ownership
from job.train.state import TrainState

LASTING = 2
"""Epochs."""
SPAN = 4
"""Epochs over which a loss's pace is averaged, as it goes up and down."""
FAR = 1.5
"""A task whose loss is above this many times the trivial prediction's has learned nothing yet."""
PATIENCE = 3
"""A task that needs more than this many run lengths to reach the trivial loss is stalled."""
WORSE = 1.05
"""A loss above this many times the best constant's is worse than it; less may be noise."""
LEAST = 5
"""Epochs in which no task is expected to beat a constant prediction."""
STARVED = 0.1
"""A task with less than this part of an even share of the gradient at z starves."""
SATURATED = 0.8
"""Share of elements with a saturated loss, above which a task's loss counts as saturated."""
OPPOSED = -0.25
"""Mean cosine below which two gradients oppose each other."""
HARMED = -0.1
"""Mean cosine with the combined gradient below which the steps harm the task."""
FURTHER = "For the cause, run `python -m job diagnose SPEC`"
"""The end of a message, where the diagnosis can say more."""
OFF = math.log(2)
"""Distance of a learned weight from its resting value, in log, above which it is far from it."""
MEMORIZED = 0.1
"""Sure skill on the training split above which a task without any on validation is memorized."""
OUTSIDE = 0.01
"""Share of unreachable targets above which there is an alarm; fewer may be outliers."""


NO_GRADIENT = 1e-6
"""A gradient at z below this part of the loss is none."""
IDLE = 0.98
"""A loss above this part of the trivial prediction's shows that nothing was learned."""
LITTLE = 0.1
"""Sure skill on the training split up to which a task has learned next to nothing."""
SHORT = 0.1
"""Part of the weights' norm that all updates of a run must be able to move."""
DOMINANT = 0.5
"""Part of a step that decay takes, relative to the gradient's, above which it dominates."""


class Sign(NamedTuple):
    """A sign of trouble with a task after one epoch."""

    kind: str
    message: str
    lasting: int = LASTING
    """Epochs in a row after which it becomes an alarm."""


class AlarmMonitor:
    """Finds alarms in a run's epochs. Its memory of earlier epochs is in the run's state."""

    def __init__(self, spec: JobSpec, baselines: Sequence[Baseline]) -> None:
        self.epochs, self.even = spec.train.epochs, 1 / len(spec.tasks)
        self.baselines = dict(zip(spec.task_names, baselines, strict=True))
        units = {task.name: loss_unit(task.loss.kind, task.unit) for task in spec.tasks}
        self.units = {name: f" {unit}" if unit else "" for name, unit in units.items()}
        self.balance = spec.balance
        # Of a control there is no cause to look for.
        self.further = "" if spec.control else f". {FURTHER}"
        stop = spec.train.early_stop
        self.scored = {spec.checkpoint.best_of, stop.task if stop else None} - {None}

    def after(self, epoch: Epoch, at: TrainState, updates: UpdateSizes = FREE) -> Iterator[Alarm]:
        """The alarms after an epoch; updates the losses and signs in `at`.

        updates: what those of this run can do to the weights.
        """
        of_all = {sign.kind: sign for sign in self._of_all(epoch, at, updates)}
        for kind in {*of_all, *at.signs.get("", {})}:
            if self._lasts(at, "", kind, of_all.get(kind)):
                yield Alarm(kind=kind, message=of_all[kind].message + self.further, step=epoch.step)
        for name, task in epoch.tasks.items():
            signs = {sign.kind: sign for sign in self._signs(name, task, epoch.epoch, at)}
            if "decay_dominates" in of_all:  # which leaves no weights for a gradient to pass
                signs.pop("dead_path", None)
            if math.isfinite(task.train_loss_original):
                at.losses[name] = [*at.losses.get(name, []), task.train_loss_original][-SPAN:]
            for kind in {*signs, *at.signs.get(name, {})}:
                if self._lasts(at, name, kind, signs.get(kind)):
                    message = signs[kind].message + self.further
                    yield Alarm(kind=kind, message=message, step=epoch.step, task=name)

    def _of_all(self, epoch: Epoch, at: TrainState, updates: UpdateSizes) -> Iterator[Sign]:
        """Signs of what keeps all tasks from learning."""
        idle = [
            n
            for n, task in epoch.tasks.items()
            if task.skill is not None and not _has_learned(task)
        ]
        still = [name for name in idle if self._stands(name, epoch.tasks[name], at)]
        pulls = any(task.grad_norm > 0 for task in epoch.tasks.values())
        short = updates.travel < SHORT and epoch.epoch >= LEAST
        if short and pulls and len(still) == len(epoch.tasks):
            yield Sign(
                "rate_too_low",
                f"no task has learned more than a little, no loss moved by more than its error, "
                f"and all steps of this run together can move the weights by at most "
                f"{updates.travel:.2%} of their size: raise optimizer.lr, or train for more epochs",
            )
        if updates.decay > DOMINANT and idle:
            yield Sign(
                "decay_dominates",
                f"in each step weight decay takes {updates.decay:.2g} times as much from the "
                f"weights as the gradients give them, and {', '.join(idle)} learned next to "
                f"nothing: lower optimizer.weight_decay",
            )

    def _stands(self, name: str, task: EpochTask, at: TrainState) -> bool:
        """True if a task's training loss moved in an epoch by less than its standard error."""
        before, error = at.losses.get(name, []), task.skill_error
        if not before or error is None:
            return False
        moved = abs(before[-1] - task.train_loss_original)
        return moved < error * self.baselines[name].strongest("train")

    def _dead(self, name: str, task: EpochTask) -> Iterator[Sign]:
        """A sign if no gradient of a task that has learned nothing comes to z."""
        trivial = self.baselines[name].strongest("train")
        idle = task.train_loss_original > IDLE * trivial and not self.baselines[name].is_constant
        if idle and task.grad_norm <= NO_GRADIENT * task.train_loss:
            yield Sign(
                "dead_path",
                f"{name}: no gradient of its loss comes to the layers that the tasks share (length "
                f"{task.grad_norm:.2g}), and it has learned nothing: in its own layers, look for "
                f"units that are 0 for every sample, an activation that is flat where its outputs "
                f"are, or a .detach()",
            )

    def _signs(self, name: str, task: EpochTask, epoch: int, at: TrainState) -> Iterator[Sign]:
        yield from self._not_finite(name, task)
        if not math.isfinite(task.train_loss_original):
            return
        loss, trivial = task.train_loss_original, self.baselines[name].strongest("train")
        before, unit = at.losses.get(name, []), self.units[name]
        never_varies = self.baselines[name].is_constant
        gap, pace = loss - trivial, (before[0] - loss) / len(before) if before else math.nan
        if not never_varies and loss > FAR * trivial and pace * PATIENCE * self.epochs < gap:
            now = f"{loss:.3g}{unit}"
            yield Sign(
                "task_starving" if task.grad_share < STARVED * self.even else "task_stalled",
                f"{name}: its loss, {now}, is {_times(loss, trivial)} the trivial prediction's "
                f"({trivial:.3g}) and {self._course(pace, gap)}. It gives {task.grad_share:.1%} of "
                f"the gradients that move the layers which the tasks share",
            )
        constant = self.baselines[name].constant["train"]
        if epoch >= max(LEAST, self.epochs / 2) and loss > WORSE * constant:
            remark = (
                ": its target is constant, the same in all training samples, and nothing can be "
                "learned from it; supply a target that varies, or drop the task"
                if never_varies
                else ""
            )
            yield Sign(
                "worse_than_constant",
                f"{name}: after {epoch} of {self.epochs} epochs its loss, {loss:.4g}{unit}, is "
                f"above that of the best constant prediction, {constant:.4g}{remark}",
            )
        if task.saturated > SATURATED:
            yield Sign(
                "loss_saturated",
                f"{name}: at {task.saturated:.0%} of its predictions the loss no longer tells how "
                f"wrong they are: the gradient there is the same, or 0, however large the error is",
            )
        yield from self._dead(name, task)
        yield from self._memorizing(name, task)
        yield from self._conflict(name, task)
        yield from self._frozen(name, task, epoch)

    def _not_finite(self, name: str, task: EpochTask) -> Iterator[Sign]:
        """A sign if an evaluation loss is not finite, with what depends on that loss."""
        splits = {"training": task.train_loss_original, "validation": task.val_loss_original}
        broken = {split: loss for split, loss in splits.items() if not math.isfinite(loss)}
        if not broken:
            return
        losses = " and ".join(f"its {split} loss is {loss}" for split, loss in broken.items())
        effect = "a gate that reads it fails"
        if "validation" in broken and self.scored & {name, "*"}:
            effect += ", and early stop and best_of skip this epoch"
        yield Sign("not_finite", f"{name}: {losses}, so {effect}", lasting=1)

    def _course(self, pace: float, gap: float) -> str:
        """How a loss moves, in words; gap: its distance from the trivial prediction's loss."""
        if pace > 0:
            needed = f"{gap / pace:.0f} epochs to fall to that"
            return f"falls by {pace:.2g} an epoch: it needs {needed}, and the run has {self.epochs}"
        return f"rises by {-pace:.2g} an epoch" if pace < 0 else "does not fall"

    @staticmethod
    def _memorizing(name: str, task: EpochTask) -> Iterator[Sign]:
        """A sign if a task has skill on the training split, and none on the validation split."""
        train, held_out = task.skill_low, task.val_skill
        if train is not None and held_out is not None and train > MEMORIZED and held_out <= 0:
            yield Sign(
                "memorizing",
                f"{name}: its skill is {task.skill:.0%} on the training split and {held_out:.0%} "
                f"on the validation split: it learns the training samples by heart, and nothing "
                f"that holds for others",
            )

    @staticmethod
    def _conflict(name: str, task: EpochTask) -> Iterator[Sign]:
        """A sign if the steps go against the task; it names the most opposed other task."""
        if not task.cosines:
            return
        other, cosine = min(task.cosines.items(), key=lambda pair: pair[1])
        if cosine < OPPOSED and task.cosine < HARMED:
            yield Sign(
                "conflict",
                f"{name}: in the layers that the tasks share, its gradient points against "
                f"{other}'s (cosine {cosine:.2f}; -1: opposite, 0: unrelated) and against that of "
                f"all tasks together ({task.cosine:.2f}), so that steps raise its loss",
            )

    def _frozen(self, name: str, task: EpochTask, epoch: int) -> Iterator[Sign]:
        """A sign if a learned weight is far from its resting value and too slow to reach it."""
        if not isinstance(self.balance, Uncertainty) or not 0 < task.train_loss < math.inf:
            return
        by_hand = self.balance.weights.get(name, 1.0)
        start, rest = 0.5 * by_hand, resting_weight(by_hand, task.train_loss)
        gap = abs(math.log(rest / task.weight))
        pace = abs(math.log(task.weight / start)) / epoch
        if gap > OFF and gap > pace * (self.epochs - epoch):
            yield Sign(
                "sigma_frozen",
                f"{name}: its weight among the tasks is learned, and is {task.weight:.3g} after "
                f"{epoch} epochs; it would settle at {by_hand:g}/(2 loss) = {rest:.3g}, but is too "
                f"slow to get there in this run: raise balance.lr",
            )

    @staticmethod
    def _lasts(at: TrainState, name: str, kind: str, sign: Sign | None) -> bool:
        """Count the epochs in a row with or without a sign; True if it becomes an alarm now.

        Counts run from 0 to LASTING; a negative count belongs to an alarm that was raised.
        """
        counts = at.signs.setdefault(name, {})
        count = counts.get(kind, 0)
        if count < 0:  # raised before: it ends once the sign was absent for long enough
            counts[kind] = -LASTING if sign else count + 1
            return False
        counts[kind] = count + 1 if sign else 0
        if sign is None or counts[kind] < sign.lasting:
            return False
        counts[kind] = -LASTING
        return True


def _has_learned(task: EpochTask) -> bool:
    """True if a task surely has more than a little skill on the training split."""
    return task.skill_low is not None and task.skill_low > LITTLE


def _times(loss: float, trivial: float) -> str:
    return f"{loss / trivial:.1f} times" if trivial > 0 else "above"


def out_of_range(losses: Sequence[TaskLoss], targets: dict[str, Tensor]) -> Iterator[Alarm]:
    """Alarms for tasks whose activation cannot reach some of their training targets."""
    for loss in losses:
        if loss.task.activation not in RANGES:
            continue
        low, high = RANGES[loss.task.activation]
        wanted = (targets[loss.task.name] - loss.shift.cpu()) / loss.scale.cpu()
        share = share_outside(loss.task.activation, wanted)
        if share >= OUTSIDE:
            yield Alarm(
                kind="targets_out_of_range",
                message=f"{loss.task.name}: {share:.1%} of its training targets lie outside "
                f"[{low:g}, {high:g}], the range of its activation {loss.task.activation}: no "
                f"training reaches them; drop the activation, or scale the target",
                step=0,
                task=loss.task.name,
            )


def not_measurable(unmeasurable: Mapping[str, str]) -> Iterator[Alarm]:
    """Alarms for tasks whose skill the validation split cannot tell; unmeasurable: why, by task."""
    for name, why in unmeasurable.items():
        message = f"{name}: the validation split cannot tell whether it is learned: {why}"
        yield Alarm(kind="not_measurable", message=message, step=0, task=name)


def no_validation_skill(epoch: Epoch, worth: Mapping[str, Worth], further: str) -> Iterator[Alarm]:
    """Alarms at the end of a run for tasks that do not surely beat the trivial prediction.

    further: how their messages end.
    """
    for name, found in worth.items():
        if found.beats or found.skill is None or found.error is None:
            continue
        skill = f"{100 * found.skill:.1f} ± {100 * found.error:.1f}%"
        message = (
            f"{name}: on the validation split it is not surely better than a prediction that "
            f"ignores the features: its skill is {skill}{further}"
        )
        yield Alarm(kind="no_validation_skill", message=message, step=epoch.step, task=name)


def ownership_changed(task: str, names: Sequence[str], step: int) -> Alarm:
    """The alarm that a task's outputs depend on parameters on which they did not at the start."""
    more = f" and {len(names) - 1} more parameters" if len(names) > 1 else ""
    return Alarm(
        kind="ownership_changed",
        step=step,
        task=task,
        message=f"{task}: its outputs now depend on {names[0]}{more}, not so before the first "
        "step. Recorded gradients do not count that, and weights that follow from them may miss "
        "it: let the network use the same parameters for all data",
    )


def ledger_alarms(known: Ownership, every: int) -> Iterator[Alarm]:
    """Alarms before the first step of a network whose tasks do not meet at z."""
    if known.obstacle is not None:
        yield Alarm(
            kind="measured_at_parameters",
            step=0,
            message=f"{known.obstacle}. So gradients are compared at the parameters that tasks "
            f"share, by one backward pass for each task in one step of {every}; between these "
            f"steps, weights that follow from gradients are held. Where the record says z, the "
            f"shared representation, it means these parameters",
        )
    if known.harmony is not None:
        message = f"no task can harm another, whatever their gradients say: {known.harmony}"
        yield Alarm(kind="no_conflict", step=0, message=message)


def overflow(step: int) -> Alarm:
    """The alarm about a gradient that is not finite in fp16."""
    message = "a gradient overflowed in fp16; the step was skipped and the loss scale halved"
    return Alarm(kind="overflow", step=step, message=message)


def balancer_fallback(count: int, step: int) -> Alarm:
    """The alarm about steps, `count` of the last ones, at which a method gave no weights."""
    message = (
        f"the balancer's method gave no weights at {count} of the last steps: there all tasks "
        "weighed the same, or a task whose gradient was too small was left out"
    )
    return Alarm(kind="balancer_fallback", step=step, message=message)
