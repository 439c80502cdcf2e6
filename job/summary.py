"""What became of each task in runs side by side: means and spreads, and their table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from job.compare import Outcome
from job.events import GateResult
from job.figures import counted

EARLY = 5
"""The epoch at which an early drop is read: the acceptance test's."""
PAGE = 200
"""Columns where there is no terminal to ask."""
COLUMNS = {
    f"drop by {EARLY}": (f"drop_{EARLY}", "%"),
    "drop at end": ("drop", "%"),
    "loss": ("loss", ""),
    "validation": ("val_loss", ""),
    "skill": ("skill", "%"),
    "val. skill": ("val_skill", "%"),
    "pull z": ("pull_z", ""),
    "pull head": ("pull_head", ""),
    "weight": ("weight", ""),
}
"""Of the printed table: title → key in the summary, and its unit."""


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Per row: mean and standard deviation over the seeds that ran to the end, as JSON values.

    The spread of one value is null, and so is the mean of values that are not all finite.
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
        "failed": [f"seed {run.seed}: {run.error}" for run in runs if run.error],
        "step_ms": _spread([run.step_ms for run in whole]),
        "gates": [_gate(column) for column in zip(*(run.gates for run in whole), strict=True)],
        "tasks": {
            task: {key: _spread([table[task][key] for table in last]) for key in columns}
            for task, columns in (last[0] if last else {}).items()
        },
    }


def _columns(run: Outcome) -> dict[str, dict[str, float]]:
    """Per task, what became of it."""
    early, last = run.epochs[min(EARLY, len(run.epochs)) - 1].tasks, run.epochs[-1].tasks
    at_z = _relative([task.pull for task in last.values()])
    at_heads = _relative([task.head_pull for task in last.values()])
    return {
        name: {
            f"drop_{EARLY}": early[name].drop,
            "drop": task.drop,
            "val_drop": task.val_drop,
            "loss": task.train_loss_original,
            "val_loss": task.val_loss_original,
            "skill": task.skill,
            "val_skill": task.val_skill,
            "weight": task.weight,
            "grad_share": task.grad_share,
            "pull_z": z,
            "pull_head": head,
        }
        for (name, task), z, head in zip(last.items(), at_z, at_heads, strict=True)
    }


def _relative(pulls: Sequence[float]) -> list[float]:
    """Pulls over the geometric mean of those that are not 0."""
    some = [pull for pull in pulls if pull > 0]
    return [pull / statistics.geometric_mean(some) if some else 0.0 for pull in pulls]


def _gate(results: Sequence[GateResult]) -> dict[str, Any]:
    """One gate over the seeds."""
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


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the summary, a line per row and task, for a person."""
    shown = Table()
    shown.add_column("row")
    shown.add_column("task")
    for title in COLUMNS:
        shown.add_column(title, justify="right")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PAGE
    for row in rows:
        step_ms = _cell(row["step_ms"], "")
        label = (
            f"{escape(row['row'])}\n[dim]{counted(row['seeds'], 'seed')}, {step_ms} ms a step[/]"
        )
        for i, (task, values) in enumerate(row["tasks"].items()):
            cells = [_cell(values[key], form) for key, form in COLUMNS.values()]
            shown.add_row("" if i else label, escape(task), *cells)
        if not row["tasks"]:
            shown.add_row(label, "[red]none ended[/]")
        shown.add_section()
    console.print(shown)
    for row in rows:
        for failed in row["failed"]:
            console.print(f"{escape(row['row'])}: [red]{escape(failed)}[/]", soft_wrap=True)
        for gate in row["gates"]:
            form = "%" if gate["unit"] == "share" else ""
            console.print(
                f"{escape(row['row'])}: {escape(gate['gate'])}: {gate['passed']} of "
                f"{counted(row['seeds'], 'seed')}, {_cell(gate['measured'], form)}",
                soft_wrap=True,
            )


def _cell(spread: dict[str, float | None], form: str) -> str:
    mean, sd = spread["mean"], spread["sd"]
    if mean is None:
        return "-"
    scale, digits = (100, ".1f") if form else (1, ".3g")
    around = "" if sd is None else f" ± {sd * scale:{digits}}"
    return f"{mean * scale:{digits}}{around}{form}"
