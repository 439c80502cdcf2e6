"""What a search prints: a bar for each trial that trains, a line for each that has ended."""

from __future__ import annotations

from optuna.trial import FrozenTrial
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from job.search.objective import Objective, Skills
from job.search.study import ERROR, SKILL, settings, value_text
from job.show import columns
from job.show.console import Screen, literal
from job.show.format import format_percent
from job.show.glyphs import ASCII, UNICODE
from job.show.printable import printable

SHOWN = 10
"""Trials that the table has at most."""


class Board:
    """The trials of a search on stderr; bars only on a terminal."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.console = Screen(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[skills]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._bars: dict[int, TaskID] = {}

    def begin(self, number: int, epochs: int) -> None:
        """A trial begins, or goes on."""
        self._bars[number] = self.bars.add_task(f"trial {number}", total=epochs, skills="")

    def advance(self, number: int, epoch: int, skills: Skills) -> None:
        """A trial has finished an epoch."""
        of_tasks = ", ".join(f"{task} {format_percent(skill)}" for task, skill in skills.items())
        self.bars.update(self._bars[number], completed=epoch, skills=of_tasks)

    def end(self, trial: FrozenTrial, how: str = "") -> None:
        """A trial has ended; how: if it did not train to its end."""
        if trial.number in self._bars:
            self.bars.remove_task(self._bars.pop(trial.number))
        told = how or ", ".join(f"{task} {skill}" for task, skill in skills_of(trial).items())
        place = f"{trial.number + 1}/{self.trials} trial {trial.number}"
        self.print(f"{place}: {told} ({settings(trial.params)})")

    def print(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(literal(text), soft_wrap=True)


def skills_of(trial: FrozenTrial) -> dict[str, str]:
    """A trial's validation skills with their standard errors, by task."""
    skills: Skills = trial.user_attrs.get(SKILL, {})
    errors: Skills = trial.user_attrs.get(ERROR, {})
    return {task: with_error(skill, errors.get(task)) for task, skill in skills.items()}


def with_error(skill: float | None, error: float | None) -> str:
    """A skill with its standard error, `31.2 ± 1.0%`; a dash if there is none."""
    if skill is None:
        return "-"
    around = "" if error is None else f" ± {100 * error:.1f}"
    return f"{100 * skill:.1f}{around}%"


def print_trials(trials: list[FrozenTrial], objective: Objective, title: str) -> None:
    """Print a table of trials, as they are ordered: values, objective, skills."""
    console = Screen()
    glyphs = ASCII if console.options.ascii_only else UNICODE
    shown = trials[:SHOWN]
    parts: dict[str, list[str]] = {"trial": [str(trial.number) for trial in shown]}
    if objective.single and len(objective.tasks) > 1:
        parts[objective.names[0]] = [format_percent(trial.value) for trial in shown]
    for task in objective.tasks:
        parts[f"{task} skill"] = [skills_of(trial).get(task, "-") for trial in shown]
    for name in shown[0].params:
        parts[name] = [value_text(trial.params[name]) for trial in shown]
    cells = {
        name: [Text(printable(glyphs.replace(text))) for text in texts]
        for name, texts in parts.items()
    }
    table = [columns.TextColumn(name, texts, right=True) for name, texts in cells.items()]
    console.print(literal(title), soft_wrap=True)
    console.print(columns.fitted_table(table, list(cells), console.width))
    if len(trials) > len(shown):
        console.print(f"and {len(trials) - len(shown)} more, in the study")


def print_lines(lines: list[str]) -> None:
    """Print lines on stdout."""
    console = Screen()
    glyphs = ASCII if console.options.ascii_only else UNICODE
    for line in lines:
        console.print(literal(glyphs.replace(line)), soft_wrap=True)
