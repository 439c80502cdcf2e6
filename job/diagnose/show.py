"""A diagnosis as text and as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import progress as bars
from rich.console import Console

from job.diagnose.case import PROBES, Finding, Watch, unit
from job.diagnose.diagnose import SECONDS, Diagnosis
from job.diagnose.pages import page
from job.diagnose.probe import Probe
from job.show.console import Screen, literal
from job.show.format import format_number, format_percent
from job.spec.patch import Edit, Json, applied, patch

LIMITS = {
    "probes": f"the diagnosis used its {PROBES} probes",
    "time": f"the diagnosis reached its limit of {SECONDS / 3600:g} hour",
    "interrupt": "the diagnosis was interrupted",
}
"""Why a diagnosis ended early, in words."""
INDENT = 14
"""Columns before the text of a finding."""


def diagnosis_json(diagnosis: Diagnosis, raw: Json) -> Json:
    """The diagnosis in JSON values; numbers that are not finite are null. raw: the spec."""
    before = diagnosis.before
    return {
        "steps": before.evaluations[-1].step,
        "planned": before.planned,
        "tasks": {name: _task(diagnosis, name) for name in before.names},
        "not_measured": before.not_measured,
        "findings": [_finding(finding, raw) for finding in diagnosis.findings],
        "probes": diagnosis.probes,
        "late": diagnosis.cut is not None,
        "cut": diagnosis.cut,
        "control": before.spec.control,
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
    finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
    probes = {"before": before, "fixed": after, "control": diagnosis.control}
    skills = {
        which: None if each is None else _skills(each, name) for which, each in probes.items()
    }
    return finite | {"skills": skills, "knows": diagnosis.knows(name)}


def _skills(probe: Probe, name: str) -> Json:
    """A task's skill on each split with its standard error and the low end of its 95 % interval."""
    each: Json = {}
    for split in ("train", "validation"):
        skill = probe.measured(name, split)
        known = skill is not None and all(map(math.isfinite, skill))
        each[split] = skill._asdict() if skill is not None and known else None
    return each


def _finding(finding: Finding, raw: Json) -> Json:
    return {
        "task": finding.task,
        "mechanism": finding.mechanism,
        "evidence": finding.evidence,
        "remedy": finding.remedy,
        "patch": patch(raw, finding.edits),
        "effect": finding.effect,
        "page": f"{page(finding.mechanism)}#what-to-do",
    }


def print_diagnosis(out: Console, diagnosis: Diagnosis, raw: Json) -> None:
    """Print the probe's table, then the findings in the order in which to mend them."""
    before = diagnosis.before
    steps = f"{before.evaluations[-1].step} of {before.planned} steps"
    _print_wrapped(
        out,
        f"probe (a short training) of {steps}; loss: on the training split, in original units; "
        f"trivial: that of the best prediction which ignores the features; skill: "
        f"1 - loss / trivial; share: a task's part of the gradients that move the layers which all "
        f"tasks share",
    )
    for line in _table(diagnosis, out.width):
        out.print(literal(line), soft_wrap=True)
    for each in before.not_measured:
        _print_wrapped(out, f"not measured: {each}")
    for split, where in (("train", "training"), ("validation", "validation")):
        unskilled = [
            n for n in before.names if before.measured(n, split) and not before.knows(n, split)
        ]
        if unskilled:
            names = ", ".join(unskilled)
            _print_wrapped(
                out, f"no better than a trivial prediction on the {where} split: {names}"
            )
    if before.spec.control:
        _print_wrapped(
            out, "this is a control: its targets are shuffled, so nothing can be learned"
        )
    print_findings(out, diagnosis.findings, raw)
    if not diagnosis.findings:
        out.print("\n[green]nothing found[/]")
    if diagnosis.cut is not None:
        out.print(f"[yellow]not everything was tried: {LIMITS[diagnosis.cut]}[/]", soft_wrap=True)


def print_findings(out: Console, findings: list[Finding], raw: Json) -> None:
    """Print the findings; one of the same cause and edits as one before it in three lines."""
    earlier: list[Edit] = []
    like: Finding | None = None
    for number, finding in enumerate(findings, 1):
        new = [edit for edit in finding.edits if edit not in earlier]
        if like and not new and finding.edits and finding.mechanism == like.mechanism:
            _print_like(out, number, finding, like)
            continue
        _print_finding(out, number, finding, new, applied(raw, earlier))
        earlier, like = earlier + new, finding


def _print_finding(
    out: Console, number: int, finding: Finding, new: list[Edit], edited: Json
) -> None:
    """Print a finding whole.

    new: its edits that no finding above has. edited: the spec with the edits of those above.
    """
    _print_title(out, number, finding)
    _print_row(out, "measured", finding.evidence)
    if finding.edits and not new:
        _print_row(out, "remedy", "the edits above help here too")
    elif not (finding.edits and finding.remedy.startswith("set ")):  # else the patch says it
        _print_row(out, "remedy", finding.remedy)
    for k, operation in enumerate(patch(edited, new)):
        _print_line(out, "" if k else "patch", json.dumps(operation))
    if finding.effect:
        _print_row(out, "predicted", finding.effect)
    _print_line(out, "more", page(finding.mechanism))


def _print_like(out: Console, number: int, finding: Finding, like: Finding) -> None:
    _print_title(out, number, finding)
    _print_row(out, "measured", f"as in {_subject(like)}; --json has its own numbers")
    _print_row(out, "remedy", "the edits above help here too")
    if finding.effect:
        _print_row(out, "predicted", finding.effect)


def _print_title(out: Console, number: int, finding: Finding) -> None:
    mechanism = finding.mechanism.replace("_", " ")
    title = f"{number}. {literal(_subject(finding))} · [yellow]{mechanism}[/]"
    out.print(f"\n[bold]{title}[/]", soft_wrap=True)


def _subject(finding: Finding) -> str:
    return "the whole run" if finding.task is None else finding.task


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
        of = f"{each['task']}, {each['split']}"
        if each["measured"] is None:
            out.print(f"{literal(of)}: [red]no fixed run reached its end[/]")
            continue
        verdict = "[green]held[/]" if each["held"] else "[red]did not hold[/]"
        out.print(
            f"{literal(of)}: its skill at the end was predicted to rise by {each['predicted']:.0%} "
            f"and rises by {each['measured']:.0%} (mean of {each['seeds']} runs): {verdict}",
            soft_wrap=True,
        )
    gates = verified["gates"]
    if gates["of"]:
        out.print(f"fixed: all gates passed in {gates['passed']} of {gates['seeds']} runs")


class Progress(Watch):
    """What is being tried, and what is found, on a terminal."""

    def __init__(self, err: Console) -> None:
        self.bar = bars.Progress(
            bars.TextColumn("probe {task.fields[number]}"),
            bars.BarColumn(bar_width=20),
            bars.TimeElapsedColumn(),
            bars.TextColumn("{task.fields[what]}"),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self.number = 0
        self.task = self.bar.add_task("", total=1.0, number=0, what="")

    def trying(self, what: str) -> None:
        """Name the probe that begins."""
        self.number += 1
        shown = literal(textwrap.shorten(what, 60))
        self.bar.update(self.task, completed=0.0, number=self.number, what=shown)

    def step(self, done: float) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done)

    def finding(self, finding: Finding) -> None:
        """Print a line, if there is a bar to print it above."""
        if not self.bar.disable:
            words = f"found: {_subject(finding)} · {finding.mechanism.replace('_', ' ')}"
            self.bar.console.print(literal(words), soft_wrap=True)


@contextmanager
def progress() -> Iterator[Watch]:
    """Shows on stderr what a diagnosis tries and finds, if that is a terminal."""
    shown = Progress(Screen(stderr=True))
    with shown.bar:
        yield shown
