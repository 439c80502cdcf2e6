"""Means and standard deviations of the compared runs, and their table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from job.compare.differences import Difference, in_words
from job.compare.outcome import Outcome
from job.events import GateResult
from job.show.columns import TextColumn, fitted_table
from job.show.console import Screen, literal
from job.show.format import counted, format_spread
from job.show.glyphs import ASCII, UNICODE

EARLY = 5
"""Epoch of the early drop, as in the acceptance test."""
COLUMNS = {
    "val. skill": ("val_skill", "%"),
    "skill": ("skill", "%"),
    f"drop by {EARLY}": (f"drop_{EARLY}", "%"),
    "drop": ("drop", "%"),
    "trivial drop": ("drop_trivial", "%"),
    "pull z": ("pull_z", ""),
    "loss": ("loss", ""),
    "val. loss": ("val_loss", ""),
    "pull head": ("pull_head", ""),
    "weight": ("weight", ""),
}
"""Columns of the printed table, those that a narrow page keeps first: title → key in the summary,
and unit."""
LEAST_NAME = 10
"""Characters of a row's or a task's name before it is broken."""


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Per row, mean and standard deviation over the seeds that ran to the end, as JSON values.

    The deviation of a single value is null, and so is the mean of values that are not all finite.
    """
    rows: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault(outcome.variant, []).append(outcome)
    return [_row(name, runs) for name, runs in rows.items()]


def _row(name: str, runs: list[Outcome]) -> dict[str, Any]:
    whole = [run for run in runs if run.error is None]
    last = [_columns(run) for run in whole]
    return {
        "row": name,
        "seeds": len(runs),
        "runs": [run.key for run in runs if run.key is not None],
        "failed": [f"seed {run.seed}: {run.error}" for run in runs if run.error],
        "step_ms": _spread([run.step_ms for run in whole]),
        "gates": [_gate(column) for column in zip(*(run.gates for run in whole), strict=True)],
        "tasks": {
            task: {
                key: _spread([print_table[task][key] for print_table in last]) for key in columns
            }
            for task, columns in (last[0] if last else {}).items()
        },
    }


def _columns(run: Outcome) -> dict[str, dict[str, float]]:
    """Each task's values at the end of a run."""
    early, last = run.epochs[min(EARLY, len(run.epochs)) - 1].tasks, run.epochs[-1].tasks
    at_z = _relative([task.pull for task in last.values()])
    at_heads = _relative([task.head_pull for task in last.values()])
    return {
        name: {
            f"drop_{EARLY}": early[name].drop,
            "drop": task.drop,
            "drop_trivial": math.nan if task.drop_trivial is None else task.drop_trivial,
            "val_drop": task.val_drop,
            "loss": task.train_loss_original,
            "val_loss": task.val_loss_original,
            "skill": _known(task.skill),
            "val_skill": _known(task.val_skill),
            "weight": task.weight,
            "grad_share": task.grad_share,
            "pull_z": z,
            "pull_head": head,
            **{f"train_{metric}": _known(value) for metric, value in task.metrics.items()},
            **{f"val_{metric}": _known(value) for metric, value in task.val_metrics.items()},
        }
        for (name, task), z, head in zip(last.items(), at_z, at_heads, strict=True)
    }


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _relative(pulls: Sequence[float]) -> list[float]:
    """Pulls divided by the geometric mean of the pulls that are not 0."""
    some = [pull for pull in pulls if pull > 0]
    return [pull / statistics.geometric_mean(some) if some else 0.0 for pull in pulls]


def _gate(results: Sequence[GateResult]) -> dict[str, Any]:
    """The results of one gate over the seeds."""
    measured = [math.nan if r.measured is None else r.measured for r in results]
    passed = sum(r.passed for r in results)
    facts = {"gate": results[0].gate, "unit": results[0].unit, "passed": passed}
    return facts | {"measured": _spread(measured)}


def _spread(values: list[float]) -> dict[str, float | None]:
    finite = [v for v in values if math.isfinite(v)]
    whole = len(finite) == len(values) and bool(values)
    return {
        "mean": statistics.fmean(values) if whole else None,
        "sd": statistics.stdev(values) if whole and len(values) > 1 else None,
    }


def print_table(
    rows: Sequence[dict[str, Any]], differences: Sequence[Difference] = (), store: str = ""
) -> None:
    """Print the summary as a table with a line per row and task, then what differs; see COLUMNS."""
    console = Screen()
    glyphs = ASCII if console.options.ascii_only else UNICODE
    lines = [(row, task) for row in rows for task in row["tasks"]]
    columns = [
        TextColumn("row", [Text(row["row"]) for row, _ in lines], folded=LEAST_NAME),
        TextColumn("task", [Text(task) for _, task in lines], folded=LEAST_NAME),
    ]
    for title, (key, unit) in COLUMNS.items():
        cells = [_cell(row["tasks"][task][key], unit) for row, task in lines]
        columns.append(TextColumn(title, [Text(glyphs.replace(c)) for c in cells], right=True))
    wanted = [column.title for column in columns]
    if lines:
        console.print(fitted_table(columns, wanted, console.width))
        console.print("[dim]± : standard deviation over the seeds[/]".replace("±", glyphs.around))
    for row in rows:
        for text in _notes(row, store):
            console.print(glyphs.replace(text), soft_wrap=True)
    for line in in_words(differences, rows[0]["row"]):
        console.print(literal(glyphs.replace(line)), soft_wrap=True)


def _notes(row: dict[str, Any], store: str) -> Iterator[str]:
    """What the table does not say of a row: its pace, failed runs, gates, where its runs are."""
    name = literal(row["row"])
    pace = f", {_cell(row['step_ms'], '')} ms a step" if row["tasks"] else ", [red]none ended[/]"
    yield f"{name}: {counted(row['seeds'], 'seed')}{pace}"
    for failed in row["failed"]:
        yield f"{name}: [red]{literal(failed)}[/]"
    for gate in row["gates"]:
        form = "%" if gate["unit"] == "share" else ""
        passed = f"{gate['passed']} of {counted(row['seeds'], 'seed')}"
        yield f"{name}: {literal(gate['gate'])}: {passed}, {_cell(gate['measured'], form)}"
    if row["runs"]:
        yield f"{name}: kept in {literal(store)}: {literal(', '.join(row['runs']))}"


def _cell(spread: dict[str, float | None], unit: str) -> str:
    return format_spread(spread["mean"], spread["sd"], as_percent=unit == "%")
