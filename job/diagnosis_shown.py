"""A diagnosis for a person's eyes, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from job.diagnose import Diagnosis
from job.edit import Edit, Json, patch
from job.finding import Finding, unit
from job.probe import Tick

PAGE = 100
"""Columns where there is no terminal to ask."""


def as_json(diagnosis: Diagnosis, raw: Json) -> Json:
    """JSON values; what is not finite is null."""
    before = diagnosis.before
    return {
        "steps": before.looks[-1].step,
        "planned": before.planned,
        "tasks": {name: _task(diagnosis, name) for name in before.names},
        "findings": [_finding(finding, raw) for finding in diagnosis.findings],
        "patch": patch(raw, diagnosis.edits),
    }


def _task(diagnosis: Diagnosis, name: str) -> Json:
    before, after = diagnosis.before, diagnosis.after
    values = {
        "loss": before.end(name),
        "trivial": before.trivial(name),
        "skill": before.skill(name),
        "share": before.mean_of(name, "grad_share"),
        "fixed_loss": after.end(name),
        "fixed_skill": after.skill(name),
    }
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _finding(finding: Finding, raw: Json) -> Json:
    return {
        "task": finding.task,
        "mechanism": finding.mechanism,
        "evidence": finding.evidence,
        "remedy": finding.remedy,
        "patch": patch(raw, finding.edits),
        "effect": finding.effect,
    }


def console() -> Console:
    """stdout."""
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = PAGE
    return out


def show(out: Console, diagnosis: Diagnosis, raw: Json) -> None:
    """Print what was probed, then the findings, the first to be mended first."""
    before = diagnosis.before
    out.print(_table(before.names, diagnosis))
    if before.broken:
        out.print(f"[red]the probe ended early[/]: {escape(before.broken)}")
    told: list[Edit] = []
    for number, finding in enumerate(diagnosis.findings, 1):
        of = "the whole run" if finding.task is None else finding.task
        mechanism = finding.mechanism.replace("_", " ")
        out.print(f"\n[bold]{number}. {escape(of)} · [yellow]{mechanism}[/][/]")
        _row(out, "measured", finding.evidence)
        if finding.edits and all(edit in told for edit in finding.edits):
            _row(out, "remedy", "the edits above mend it too")
        elif finding.edits:
            _patch(out, patch(raw, [edit for edit in finding.edits if edit not in told]))
        else:
            _row(out, "remedy", finding.remedy)
        if finding.effect:
            _row(out, "predicted", finding.effect)
        told += finding.edits
    if not diagnosis.findings:
        out.print("\n[green]nothing found[/]")


def _table(names: Sequence[str], diagnosis: Diagnosis) -> Table:
    before, after = diagnosis.before, diagnosis.after
    steps = f"{before.looks[-1].step} of {before.planned} steps"
    what = "training split, original units; share of the gradient at z"
    table = Table(title=f"probe of {steps}; {what}", title_justify="left")
    table.add_column("task")
    columns = ("loss", "trivial", "skill", "share")
    for column in (*columns, *(("fixed: loss", "skill") if diagnosis.edits else ())):
        table.add_column(column, justify="right")
    for name in names:
        cells = [
            f"{before.end(name):.4g}{unit(before, name)}",
            f"{before.trivial(name):.4g}",
            f"{before.skill(name):.0%}",
            f"{before.mean_of(name, 'grad_share'):.1%}",
        ]
        if diagnosis.edits:
            cells += [f"{after.end(name):.4g}", f"{after.skill(name):.0%}"]
        table.add_row(escape(name), *map(escape, cells))
    return table


def _row(out: Console, title: str, text: str) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=12)
    grid.add_column()
    grid.add_row(f"   [dim]{title}[/]", escape(text))
    out.print(grid)


def _patch(out: Console, operations: list[Json]) -> None:
    for i, operation in enumerate(operations):
        _row(out, "" if i else "remedy", json.dumps(operation))


def show_verified(out: Console, found: dict[str, Any]) -> None:
    """Print whether the predictions held, under the table of both runs."""
    from job.summary import table

    table(found["rows"])
    for task, each in found["predictions"].items():
        if each["measured"] is None:
            out.print(f"{escape(task)}: [red]no run came to its end[/]")
            continue
        verdict = "[green]held[/]" if each["held"] else "[red]did not hold[/]"
        out.print(
            f"{escape(task)}: loss predicted to end {each['predicted']:.0%} lower, ended "
            f"{each['measured']:.0%} lower over {each['seeds']} seeds: {verdict}"
        )
    gates = found["gates"]
    if gates["of"]:
        out.print(f"fixed: all gates passed on {gates['passed']} of {gates['seeds']} seeds")


@contextmanager
def progress() -> Iterator[Tick]:
    """A bar on stderr where that is a terminal, anew for each probe."""
    err = Console(stderr=True)
    bar = Progress(
        TextColumn("probe {task.fields[number]}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=1.0, number=1)
        number, last = 1, 0.0

        def tick(done: float) -> None:
            nonlocal number, last
            if done < last:
                number += 1
            last = done
            bar.update(task, completed=done, number=number)

        yield tick
