"""A diagnosis for a person's eyes, and as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from job.diagnose import Diagnosis
from job.edit import Edit, Json, applied, patch
from job.finding import KNOWS, Finding, unit
from job.probe import Tick

PAGE = 100
"""Columns where there is no terminal to ask."""
INDENT = 14
"""Columns before a finding's texts."""


def as_json(diagnosis: Diagnosis, raw: Json) -> Json:
    """JSON values; what is not finite is null."""
    before = diagnosis.before
    return {
        "steps": before.looks[-1].step,
        "planned": before.planned,
        "tasks": {name: _task(diagnosis, name) for name in before.names},
        "findings": [_finding(finding, raw) for finding in diagnosis.findings],
        "late": diagnosis.late,
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
    steps = f"{before.looks[-1].step} of {before.planned} steps"
    _wrapped(out, f"probe of {steps}; training split, original units; share of the gradient at z")
    for line in _table(diagnosis, out.width):
        out.print(escape(line), soft_wrap=True)
    for split in ("train", "validation"):
        known = [name for name in before.names if not before.skill(name, split) > KNOWS]
        if known:
            where = "training" if split == "train" else split
            _wrapped(out, f"no better than trivial on the {where} split: {', '.join(known)}")
    told: list[Edit] = []
    for number, finding in enumerate(diagnosis.findings, 1):
        of = "the whole run" if finding.task is None else finding.task
        mechanism = finding.mechanism.replace("_", " ")
        out.print(f"\n[bold]{number}. {escape(of)} · [yellow]{mechanism}[/][/]", soft_wrap=True)
        _row(out, "measured", finding.evidence)
        new = [edit for edit in finding.edits if edit not in told]
        if finding.edits and not new:
            _row(out, "remedy", "the edits above mend it too")
        elif not finding.remedy.startswith("set "):
            _row(out, "remedy", finding.remedy)
        for k, operation in enumerate(patch(applied(raw, told), new)):
            _line(out, "" if k else "patch", json.dumps(operation))
        if finding.effect:
            _row(out, "predicted", finding.effect)
        told += new
    if not diagnosis.findings:
        out.print("\n[green]nothing found[/]")
    if diagnosis.late:
        out.print("[yellow]not everything was tried: the time is over[/]")


def _table(diagnosis: Diagnosis, width: int) -> Iterator[str]:
    """Lines of the tasks' table, with as many columns as the width has room for."""
    before, after = diagnosis.before, diagnosis.after
    columns: dict[str, Callable[[str], str]] = {
        "loss": lambda n: f"{before.end(n):.4g}",
        "trivial": lambda n: f"{before.trivial(n):.4g}",
        "skill": lambda n: f"{before.skill(n):.0%}",
        "share": lambda n: f"{before.mean_of(n, 'grad_share'):.1%}",
    }
    if diagnosis.edits:
        columns |= {
            "fixed: loss": lambda n: f"{after.end(n):.4g}",
            "fixed: skill": lambda n: f"{after.skill(n):.0%}",
        }
    names = {n: f"{n}, {u}" if (u := unit(before, n)) else n for n in before.names}
    first = max(map(len, ("task", *names.values())))
    lines = {"": f"{'task':<{first}}"} | {n: f"{told:<{first}}" for n, told in names.items()}
    for title, cell in columns.items():
        wide = 2 + max(len(title), *(len(cell(n)) for n in names))
        if len(lines[""]) + wide <= width:
            lines = {n: line + f"{cell(n) if n else title:>{wide}}" for n, line in lines.items()}
    yield from lines.values()


def _row(out: Console, title: str, text: str) -> None:
    for k, line in enumerate(textwrap.wrap(text, max(out.width - INDENT, 30))):
        _line(out, "" if k else title, line)


def _line(out: Console, title: str, text: str) -> None:
    out.print(f"   [dim]{title:<{INDENT - 3}}[/]{escape(text)}", soft_wrap=True)


def _wrapped(out: Console, text: str) -> None:
    for line in textwrap.wrap(text, out.width):
        out.print(escape(line), soft_wrap=True)


def show_verified(out: Console, found: dict[str, Any]) -> None:
    """Print whether the predictions held, under the table of both runs."""
    from job.summary import table

    table(found["rows"])
    for each in found["predictions"]:
        of = each["task"] + (", validation" if each["split"] == "validation" else "")
        if each["measured"] is None:
            out.print(f"{escape(of)}: [red]no fixed run came to its end[/]")
            continue
        verdict = "[green]held[/]" if each["held"] else "[red]did not hold[/]"
        out.print(
            f"{escape(of)}: loss predicted to end {each['predicted']:.0%} lower, ended "
            f"{each['measured']:.0%} lower, mean of {each['seeds']} runs: {verdict}",
            soft_wrap=True,
        )
    gates = found["gates"]
    if gates["of"]:
        out.print(f"fixed: all gates passed in {gates['passed']} of {gates['seeds']} runs")


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
