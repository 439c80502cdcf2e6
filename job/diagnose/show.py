"""A diagnosis as text and as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from job.diagnose.case import KNOWS, Finding, unit
from job.diagnose.diagnose import SECONDS, Diagnosis
from job.diagnose.probe import Tick
from job.show.console import Screen, literal
from job.show.format import format_number, format_percent
from job.spec.patch import Edit, Json, applied, patch

INDENT = 14
"""Columns before the text of a finding."""


def diagnosis_json(diagnosis: Diagnosis, raw: Json) -> Json:
    """The diagnosis in JSON values; numbers that are not finite are null. raw: the spec."""
    before = diagnosis.before
    return {
        "steps": before.evaluations[-1].step,
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


def print_diagnosis(out: Console, diagnosis: Diagnosis, raw: Json) -> None:
    """Print the probe's table, then the findings in the order in which to mend them."""
    before = diagnosis.before
    steps = f"{before.evaluations[-1].step} of {before.planned} steps"
    _print_wrapped(
        out,
        f"probe of {steps}; losses on the training split in original units; share: of the gradient "
        f"at the shared representation z",
    )
    for line in _table(diagnosis, out.width):
        out.print(literal(line), soft_wrap=True)
    for split in ("train", "validation"):
        unskilled = [name for name in before.names if not before.skill(name, split) > KNOWS]
        if unskilled:
            where = "training" if split == "train" else split
            names = ", ".join(unskilled)
            _print_wrapped(
                out, f"no better than a trivial prediction on the {where} split: {names}"
            )
    printed: list[Edit] = []
    for number, finding in enumerate(diagnosis.findings, 1):
        _print_finding(out, number, finding, printed, raw)
        printed += [edit for edit in finding.edits if edit not in printed]
    if not diagnosis.findings:
        out.print("\n[green]nothing found[/]")
    if diagnosis.late:
        limit = f"the diagnosis reached its limit of {SECONDS / 60:g} minutes"
        out.print(f"[yellow]not everything was tried: {limit}[/]", soft_wrap=True)


def _print_finding(
    out: Console, number: int, finding: Finding, earlier: list[Edit], raw: Json
) -> None:
    """Print a finding; earlier: the edits of the findings before."""
    subject = "the whole run" if finding.task is None else finding.task
    mechanism = finding.mechanism.replace("_", " ")
    out.print(f"\n[bold]{number}. {literal(subject)} · [yellow]{mechanism}[/][/]", soft_wrap=True)
    _print_row(out, "measured", finding.evidence)
    new = [edit for edit in finding.edits if edit not in earlier]
    if finding.edits and not new:
        _print_row(out, "remedy", "the edits above help here too")
    elif not finding.remedy.startswith("set "):
        _print_row(out, "remedy", finding.remedy)
    for k, operation in enumerate(patch(applied(raw, earlier), new)):
        _print_line(out, "" if k else "patch", json.dumps(operation))
    if finding.effect:
        _print_row(out, "predicted", finding.effect)


def _table(diagnosis: Diagnosis, width: int) -> Iterator[str]:
    """Lines of the tasks' table, with as many columns as fit the width."""
    before, after = diagnosis.before, diagnosis.after
    columns: dict[str, Callable[[str], str]] = {
        "loss": lambda n: format_number(before.end(n)),
        "trivial": lambda n: format_number(before.trivial(n)),
        "skill": lambda n: format_percent(before.skill(n), 0),
        "share": lambda n: format_percent(before.mean_of(n, "grad_share")),
    }
    if diagnosis.edits:
        columns |= {
            "fixed: loss": lambda n: format_number(after.end(n)),
            "fixed: skill": lambda n: format_percent(after.skill(n), 0),
        }
    names = {n: f"{n}, {u}" if (u := unit(before, n)) else n for n in before.names}
    first = max(map(len, ("task", *names.values())))
    lines = {"": f"{'task':<{first}}"} | {n: f"{label:<{first}}" for n, label in names.items()}
    for title, cell in columns.items():
        wide = 2 + max(len(title), *(len(cell(n)) for n in names))
        if len(lines[""]) + wide <= width:
            lines = {n: line + f"{cell(n) if n else title:>{wide}}" for n, line in lines.items()}
    yield from lines.values()


def _print_row(out: Console, title: str, text: str) -> None:
    for k, line in enumerate(textwrap.wrap(text, max(out.width - INDENT, 30))):
        _print_line(out, "" if k else title, line)


def _print_line(out: Console, title: str, text: str) -> None:
    out.print(f"   [dim]{title:<{INDENT - 3}}[/]{literal(text)}", soft_wrap=True)


def _print_wrapped(out: Console, text: str) -> None:
    for line in textwrap.wrap(text, out.width):
        out.print(literal(line), soft_wrap=True)


def print_verification(out: Console, verified: dict[str, Any]) -> None:
    """Print the table of both runs, and whether the predictions held."""
    from job.compare.summary import print_table

    print_table(verified["rows"])
    for each in verified["predictions"]:
        of = each["task"] + (", validation" if each["split"] == "validation" else "")
        if each["measured"] is None:
            out.print(f"{literal(of)}: [red]no fixed run reached its end[/]")
            continue
        verdict = "[green]held[/]" if each["held"] else "[red]did not hold[/]"
        out.print(
            f"{literal(of)}: the loss at the end was predicted to be {each['predicted']:.0%} "
            f"lower, and is {each['measured']:.0%} lower (mean of {each['seeds']} runs): {verdict}",
            soft_wrap=True,
        )
    gates = verified["gates"]
    if gates["of"]:
        out.print(f"fixed: all gates passed in {gates['passed']} of {gates['seeds']} runs")


@contextmanager
def progress() -> Iterator[Tick]:
    """A progress bar for each probe, on stderr if that is a terminal."""
    err = Screen(stderr=True)
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
