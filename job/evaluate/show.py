"""An evaluation as text for a person."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from job.evaluate.evaluation import Evaluation
from job.evaluate.lacking import in_words, in_words_of_slices
from job.events import FinalTest, fields
from job.predict import Predictor
from job.show.columns import TextColumn, fitted_table
from job.show.console import Screen
from job.show.format import (
    counted,
    format_metric,
    format_number,
    loss_label,
    percent_with_error,
)
from job.show.glyphs import ASCII, UNICODE, Glyphs
from job.show.summary_tables import LEAST_NAME, verdict
from job.spec import JobSpec, loss_unit

COLUMNS = ("task", "skill", "loss", "trivial loss", "metrics")
SLICED = ("slice", "samples", "task", "skill", "loss", "metrics")


def print_evaluation(screen: Screen, evaluation: Evaluation, predictor: Predictor) -> None:
    """Print it: a row for each task, the gates, and a row for each task of each slice."""
    spec, test = predictor.spec, evaluation.whole.test
    glyphs = ASCII if screen.options.ascii_only else UNICODE
    screen.print(_tasks(evaluation, spec, screen.width, glyphs))
    for line in in_words(test):
        screen.print(Text(glyphs.replace(line)))
    if evaluation.gates:
        gates = [fields(gate) for gate in evaluation.gates]
        screen.print(verdict(gates, screen.width, glyphs))
    for gate in evaluation.left_out:
        screen.print(Text(f"not measured here, as it is about the run's training: {gate}"))
    if evaluation.slices:
        screen.print(_slices(evaluation.slices, spec, screen.width, glyphs))
        for line in in_words_of_slices(evaluation.slices):
            screen.print(Text(glyphs.replace(line)))


def _tasks(evaluation: Evaluation, spec: JobSpec, width: int, glyphs: Glyphs) -> Table:
    test = evaluation.whole.test
    cells = _rows(test, spec, glyphs)
    title = f"{counted(test.samples, 'sample')} of {evaluation.data}; losses in original units"
    columns = [TextColumn("task", [row["task"] for row in cells], folded=LEAST_NAME)]
    columns += [
        TextColumn(name, [row[name] for row in cells], right=True)
        for name in ("loss", "trivial loss", "skill")
    ]
    columns.append(TextColumn("metrics", [row["metrics"] for row in cells], folded=LEAST_NAME))
    return fitted_table(columns, COLUMNS, width, title)


def _rows(test: FinalTest, spec: JobSpec, glyphs: Glyphs) -> list[dict[str, Text]]:
    """Of each task its cells, by column."""
    rows = []
    for task in spec.tasks:
        found = fields(test.tasks[task.name])
        setup = {"loss_unit": loss_unit(task.loss.kind, task.unit)}
        metrics = (format_metric(name, x, task.unit) for name, x in found["metrics"].items())
        cells = {
            "task": loss_label(task.name, setup),
            "loss": format_number(found["loss_original"]),
            "trivial loss": format_number(found["trivial_loss_original"]),
            "skill": percent_with_error(found, "skill", "skill_error"),
            "metrics": ", ".join(metrics),
        }
        rows.append({name: Text(glyphs.replace(text)) for name, text in cells.items()})
    return rows


def _slices(slices: Mapping[str, FinalTest], spec: JobSpec, width: int, glyphs: Glyphs) -> Table:
    rows = [
        {"slice": Text(name or "(empty)"), "samples": Text(f"{test.samples:,}"), **row}
        for name, test in slices.items()
        for row in _rows(test, spec, glyphs)
    ]
    columns = [
        TextColumn(
            name,
            [row[name] for row in rows],
            right=name in ("samples", "skill", "loss"),
            folded=LEAST_NAME if name in ("slice", "task", "metrics") else None,
        )
        for name in ("slice", "samples", "task", "loss", "skill", "metrics")
    ]
    return fitted_table(columns, SLICED, width, "slices")
