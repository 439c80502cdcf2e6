"""A run evaluated on labelled data: as a whole, by the spec's gates, and by groups of rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from job.errors import Fault, InputError
from job.evaluate.lacking import lacking
from job.evaluate.measure import Measured, measure, part_of
from job.evaluate.read import read_groups, read_split
from job.events import FinalTest, GateResult, fields
from job.events.gates import OnSplit, judge_on_split, words
from job.model.losses import TaskLoss
from job.model.own.functions import loaded
from job.predict import Predictor
from job.predict.load import check_code
from job.spec import Arrays, JobSpec, MetricGate, SkillGate


class Evaluation(NamedTuple):
    """What a run shows on some data."""

    data: str
    """The file, as the user wrote it."""
    whole: Measured
    gates: list[GateResult]
    """The spec's gates on a validation skill or metric, measured on this data."""
    left_out: list[str]
    """Gates of which this data can say nothing, in words."""
    slices: dict[str, FinalTest]
    """By group."""

    @property
    def passed(self) -> bool:
        """True if no gate has failed."""
        return all(gate.passed for gate in self.gates)


def evaluate(
    predictor: Predictor, source: str, column: str | None = None, folder: Path | None = None
) -> Evaluation:
    """Measure a run on a file, and on each group of its rows that `column` names.

    source: relative to `folder`, if that is given. Raises InputError.
    """
    spec, folder = predictor.spec, folder or Path()
    losses = own_losses(predictor)
    split = read_split(predictor, source, folder)
    at = (predictor.origin.kept.step, predictor.epoch)
    whole = measure(predictor.model, losses, split, predictor.device, at, plots=True)
    slices = {}
    if column is not None:
        if not isinstance(spec.data, Arrays):
            rule, remedy = "windows of bars have no columns", "leave it out"
            raise InputError([Fault("--slice", f'"{column}"', rule, remedy)])
        section = predictor.section(spec.data)
        for name, rows in read_groups(section, column, source, folder).items():
            part = part_of(split, torch.from_numpy(rows))
            slices[name] = measure(predictor.model, losses, part, predictor.device, at).test
    gates, left_out = _gates(spec, whole.test)
    return Evaluation(source, whole, gates, left_out, slices)


def own_losses(predictor: Predictor) -> list[TaskLoss]:
    """A run's fitted losses on the CPU, with losses and metrics of one's own."""
    spec, folder = predictor.spec, predictor.folder
    check_code(spec, folder, list(spec.own_code))
    losses = []
    for k, fitted in enumerate(predictor.losses):
        loss = TaskLoss(loaded(fitted.task, folder, f"$.tasks[{k}]"))
        loss.load_state_dict(fitted.state_dict())
        losses.append(loss)
    return losses


def _gates(spec: JobSpec, test: FinalTest) -> tuple[list[GateResult], list[str]]:
    """The verdicts of the gates that other data than the run's own can tell, and the others."""
    results, left_out = [], []
    for gate in spec.gates:
        if isinstance(gate, SkillGate | MetricGate) and gate.split == "validation":
            task = test.tasks[gate.task]
            skill = (task.skill, task.skill_error, task.skill_low)
            measured = OnSplit(task.loss_original, *skill, task.metrics)
            why = test.unmeasurable.get(gate.task)
            results.append(judge_on_split(gate, measured, test.epoch, why))
        else:
            left_out.append(words(gate))
    return results, left_out


def record(evaluation: Evaluation, predictor: Predictor) -> dict[str, Any]:
    """The evaluation as JSON values; a number that is not finite is null, and flagged."""
    origin = predictor.origin
    ended: dict[str, Any] = fields(evaluation.whole.test)
    del ended["event"]
    return {
        "run": origin.run,
        "checkpoint": origin.kept.folder,
        "data": evaluation.data,
        **ended,
        "lacking": lacking(evaluation.whole.test),
        "gates": [fields(gate) for gate in evaluation.gates],
        "gates_left_out": evaluation.left_out,
        "slices": {name: _of_slice(test) for name, test in evaluation.slices.items()},
    }


def _of_slice(test: FinalTest) -> dict[str, Any]:
    kept = ("samples", "unmeasurable", "tasks")
    found = {name: value for name, value in fields(test).items() if name in kept}
    return found | {"lacking": lacking(test)}


def plots(evaluation: Evaluation, names: Sequence[str]) -> list[dict[str, Any]]:
    """What the report draws of the predictions, by task."""
    test = evaluation.whole.test
    place = {"split": evaluation.data, "step": test.step, "epoch": test.epoch}
    return [
        {"task": name, **place, **_plain(found._asdict())}
        for name, found in zip(names, evaluation.whole.plots, strict=True)
    ]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Records among the values as JSON values."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list):
            made[name] = [fields(each) for each in value]
        elif value is not None:
            made[name] = fields(value) if hasattr(value, "model_dump") else value
    return made
