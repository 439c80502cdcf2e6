"""The verdict: what the spec's gates measured, and which of them passed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, assert_never

from job.events.types import Epoch, GateResult
from job.spec import DropGate, Gate, MetricGate, RatioGate, SkillGate
from job.spec.tasks import METRICS


class OnSplit(NamedTuple):
    """What a split shows of a task."""

    loss: float
    """In original units."""
    skill: float | None
    """None if the split cannot tell."""
    error: float | None
    """Standard error of the skill."""
    low: float | None
    """Lower end of its 95 % interval."""
    metrics: Mapping[str, float | None]


class Verdict:
    """Judges each gate at its epoch. `results` is part of the run's state.

    unmeasurable: by split and task, why a skill cannot be told.
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        epochs: int,
        unmeasurable: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.gates = list(gates)
        self.epochs = epochs
        self.unmeasurable = unmeasurable or {}
        self.results: dict[int, GateResult] = {}

    def read(self, epoch: Epoch, last: bool) -> list[GateResult]:
        """The verdicts that are due at an epoch; at the last one, all that are still open."""
        due = [
            i
            for i, gate in enumerate(self.gates)
            if i not in self.results and (last or (gate.by_epoch or self.epochs) == epoch.epoch)
        ]
        for i in due:
            self.results[i] = judge(self.gates[i], epoch, self.unmeasurable)
        return [self.results[i] for i in due]

    def final(self, epoch: int) -> list[GateResult]:
        """The verdict on every gate; a gate that the run did not reach has failed."""
        return [
            self.results.get(i) or _result(gate, False, None, epoch)
            for i, gate in enumerate(self.gates)
        ]


def judge(
    gate: Gate, epoch: Epoch, unmeasurable: Mapping[str, Mapping[str, str]] | None = None
) -> GateResult:
    """A gate's verdict on an epoch. A measurement that is not finite does not pass.

    unmeasurable: by split and task, why a skill cannot be told.
    """
    match gate:
        case DropGate():
            return _judge_drop(gate, epoch)
        case SkillGate() | MetricGate():
            why = (unmeasurable or {}).get(gate.split, {}).get(gate.task)
            return judge_on_split(gate, _on_split(gate, epoch), epoch.epoch, why)
        case RatioGate():
            return _judge_ratio(gate, epoch)
        case _:
            assert_never(gate)


def _judge_drop(gate: DropGate, epoch: Epoch) -> GateResult:
    task = epoch.tasks[gate.task]
    train = gate.split == "train"
    drop, trivial = (
        (task.drop, task.drop_trivial) if train else (task.val_drop, task.val_drop_trivial)
    )
    if math.isfinite(drop):
        return _result(gate, drop > gate.drop, drop, epoch.epoch, trivial=trivial)
    loss = task.train_loss_original if train else task.val_loss_original
    why = _lost_loss(gate, loss) or f"the loss of {gate.task} after epoch 1 is 0 or not finite"
    return _result(gate, False, drop, epoch.epoch, why=why)


def _on_split(gate: SkillGate | MetricGate, epoch: Epoch) -> OnSplit:
    task = epoch.tasks[gate.task]
    if gate.split == "train":
        skill = (task.skill, task.skill_error, task.skill_low)
        return OnSplit(task.train_loss_original, *skill, task.metrics)
    skill = (task.val_skill, task.val_skill_error, task.val_skill_low)
    return OnSplit(task.val_loss_original, *skill, task.val_metrics)


def judge_on_split(
    gate: SkillGate | MetricGate, measured: OnSplit, epoch: int, unmeasurable: str | None
) -> GateResult:
    """A gate's verdict on what its split shows; unmeasurable: why that tells no skill."""
    if isinstance(gate, MetricGate):
        return _judge_metric(gate, measured, epoch)
    skill, error, low = measured.skill, measured.error, measured.low
    if skill is None or error is None or low is None:
        reason = f"the {gate.split} split cannot tell: {unmeasurable or 'no skill is recorded'}"
        return _result(gate, False, None, epoch, why=reason)
    if not math.isfinite(skill):
        why = _lost_loss(gate, measured.loss) or "the trivial prediction has a loss of 0"
        return _result(gate, False, skill, epoch, why=why)
    passed = (low if gate.beyond_error else skill) > gate.skill
    unsure = f"its 95% interval begins at {100 * low:.1f}%" if skill > gate.skill else None
    return _result(gate, passed, skill, epoch, error=error, why=None if passed else unsure)


def _judge_metric(gate: MetricGate, measured: OnSplit, epoch: int) -> GateResult:
    value = measured.metrics.get(gate.metric)
    if value is None:
        why = _lost_loss(gate, measured.loss) or (
            f"{gate.metric} needs {needs(gate.metric)}, and finite predictions"
        )
        return _result(gate, False, None, epoch, why=why)
    low, high = _bounds(gate)
    return _result(gate, low < value < high, value, epoch)


def _judge_ratio(gate: RatioGate, epoch: Epoch) -> GateResult:
    a, b = (epoch.tasks[name] for name in gate.ratio)
    upper, lower = (a.pull, b.pull) if gate.at == "z" else (a.head_pull, b.head_pull)
    ratio = upper / lower if lower else math.inf
    why = f"the gradient of {gate.ratio[1]} at {gate.at} is 0, or one of the two not finite"
    passed = gate.between[0] <= ratio <= gate.between[1]
    return _result(gate, passed, ratio, epoch.epoch, why=None if math.isfinite(ratio) else why)


def needs(metric: str) -> str:
    """What a split must hold for a value of a metric."""
    known = METRICS.get(metric)  # else it is the user's own
    return known.needs if known is not None else "a known target, and to be finite itself"


def _bounds(gate: MetricGate) -> tuple[float, float]:
    """Between which a metric must be."""
    return (
        -math.inf if gate.above is None else gate.above,
        math.inf if gate.below is None else gate.below,
    )


def _result(
    gate: Gate,
    passed: bool,
    measured: float | None,
    epoch: int,
    error: float | None = None,
    trivial: float | None = None,
    why: str | None = None,
) -> GateResult:
    return GateResult(
        gate=words(gate),
        passed=passed,
        measured=measured,
        unit=_unit(gate),
        epoch=epoch,
        error=error,
        trivial=trivial,
        why=why,
    )


def _unit(gate: Gate) -> Literal["share", "ratio", "metric"]:
    match gate:
        case RatioGate():
            return "ratio"
        case MetricGate():
            return "metric"
        case _:
            return "share"


def _lost_loss(gate: DropGate | SkillGate | MetricGate, loss: float) -> str | None:
    """Why a gate has nothing to measure, if the loss on its split is not finite."""
    if math.isfinite(loss):
        return None
    return f"the loss of {gate.task} on the {gate.split} split is {loss}"


def words(gate: Gate) -> str:
    """A gate in words, for people."""
    match gate:
        case DropGate():
            what, least = "drops", gate.drop
        case SkillGate():
            what, least = "skill", gate.skill
        case RatioGate():
            (a, b), (low, high) = gate.ratio, gate.between
            when = f"epoch {gate.by_epoch}" if gate.by_epoch else "the last epoch"
            return f"gradient of {a} / {b} at {gate.at} within {low:g}-{high:g} at {when}"
        case MetricGate():
            above = [] if gate.above is None else [f"> {gate.above:g}"]
            bounds = above + ([] if gate.below is None else [f"< {gate.below:g}"])
            what = f"{gate.task} {gate.metric} {' and '.join(bounds)}"
            return f"{what} by epoch {gate.by_epoch} ({gate.split})"
        case _:
            assert_never(gate)
    ignored = isinstance(gate, SkillGate) and not gate.beyond_error
    where = f"{gate.split}, its error ignored" if ignored else gate.split
    return f"{gate.task} {what} > {100 * least:g}% by epoch {gate.by_epoch} ({where})"
