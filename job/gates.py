"""The verdict: what the spec's gates measured, and whether they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from job.events import Epoch, GateResult
from job.spec import DropGate, Gate, RatioGate, SkillGate


class Verdict:
    """Reads each gate at its epoch. `results` is part of the run's state."""

    def __init__(self, gates: Sequence[Gate], epochs: int) -> None:
        self.gates = list(gates)
        self.epochs = epochs
        self.results: dict[int, GateResult] = {}

    def read(self, epoch: Epoch, last: bool) -> list[GateResult]:
        """The gates to be read at this epoch; at the last one, all that are still open."""
        due = [
            i
            for i, gate in enumerate(self.gates)
            if i not in self.results and (last or (gate.by_epoch or self.epochs) == epoch.epoch)
        ]
        for i in due:
            self.results[i] = judge(self.gates[i], epoch)
        return [self.results[i] for i in due]

    def final(self, epoch: int) -> list[GateResult]:
        """Every gate; one that the run did not reach has failed."""
        return [
            self.results.get(i) or _result(gate, False, None, epoch)
            for i, gate in enumerate(self.gates)
        ]


def judge(gate: Gate, epoch: Epoch) -> GateResult:
    """A gate's verdict on an epoch. A measurement that is not finite does not pass."""
    measured = _measure(gate, epoch)
    if isinstance(gate, RatioGate):
        passed = gate.between[0] <= measured <= gate.between[1]
    else:
        passed = measured > (gate.drop if isinstance(gate, DropGate) else gate.skill)
    return _result(gate, passed, measured, epoch.epoch)


def _result(gate: Gate, passed: bool, measured: float | None, epoch: int) -> GateResult:
    return GateResult(
        gate=words(gate),
        passed=passed,
        measured=measured,
        unit="ratio" if isinstance(gate, RatioGate) else "share",
        epoch=epoch,
    )


def _measure(gate: Gate, epoch: Epoch) -> float:
    match gate:
        case DropGate():
            task = epoch.tasks[gate.task]
            return task.drop if gate.split == "train" else task.val_drop
        case SkillGate():
            task = epoch.tasks[gate.task]
            return task.skill if gate.split == "train" else task.val_skill
        case RatioGate():
            a, b = (epoch.tasks[name] for name in gate.ratio)
            upper, lower = (a.pull, b.pull) if gate.at == "z" else (a.head_pull, b.head_pull)
            return upper / lower if lower else float("inf")
        case _:
            assert_never(gate)


def words(gate: Gate) -> str:
    """The gate as a person would say it."""
    match gate:
        case DropGate():
            what, least = "drops", gate.drop
        case SkillGate():
            what, least = "skill", gate.skill
        case RatioGate():
            (a, b), (low, high) = gate.ratio, gate.between
            when = f"epoch {gate.by_epoch}" if gate.by_epoch else "the last epoch"
            return f"gradient of {a} / {b} at {gate.at} within {low:g}-{high:g} at {when}"
        case _:
            assert_never(gate)
    return f"{gate.task} {what} > {100 * least:g}% by epoch {gate.by_epoch} ({gate.split})"
