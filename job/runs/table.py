"""A list of runs as a table in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from job.record.result import TaskWorth
from job.runs.rows import Row
from job.show.columns import TextColumn, fitted_table
from job.show.console import WIDE_PAGE, Screen
from job.show.format import format_percent, size
from job.show.glyphs import ASCII, UNICODE
from job.show.printable import printable

BY_IMPORTANCE = ("RUN", "VERDICT", "SKILL", "AGE", "LABEL", "SIZE", "DETAIL")
"""Columns, the first of which stay on a narrow terminal."""
FOLDED = {"RUN": 14, "SKILL": 16, "LABEL": 10, "DETAIL": 16}
"""Columns whose text may take several lines, and their least width."""
MOST_TASKS = 3
"""Tasks whose skill is shown each; of more, the least is."""
COLOURS = {"passed": "green", "damaged": "red", "gates_failed": "red", "failed": "red"}


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table."""
    console = Screen(WIDE_PAGE)
    glyphs = ASCII if console.options.ascii_only else UNICODE
    cells = [
        {k: Text(glyphs.replace(printable(v))) for k, v in _texts(row).items()} for row in rows
    ]
    for row, texts in zip(rows, cells, strict=True):
        texts["VERDICT"].stylize(COLOURS.get(row.state, ""))
    columns = [
        TextColumn(
            title, [each[title] for each in cells], title in ("AGE", "SIZE"), FOLDED.get(title)
        )
        for title in cells[0]
    ]
    console.print(fitted_table(columns, BY_IMPORTANCE, console.width, lines=False))


def _texts(row: Row) -> dict[str, str]:
    return {
        "RUN": row.run,
        "VERDICT": row.state.replace("_", " ") + (" (control)" if row.control else ""),
        "SKILL": skill_words(row),
        "AGE": age(row.age_seconds),
        "SIZE": size(row.bytes),
        "LABEL": row.label or "-",
        "DETAIL": row.detail,
    }


def skill_words(row: Row) -> str:
    """Each task's validation skill with its error; of many tasks the least."""
    if len(row.skills) > MOST_TASKS and row.least is not None:
        name, worth = row.least
        return f"least of {len(row.skills)}: {name} {_skill(worth)}"
    return ", ".join(f"{name} {_skill(worth)}" for name, worth in row.skills.items()) or "-"


def _skill(worth: TaskWorth) -> str:
    if worth.skill is None:
        return "not measurable"
    share = format_percent(worth.skill)
    return share if worth.error is None else f"{share[:-1]} ± {format_percent(worth.error)}"


def age(seconds: float | None) -> str:
    """Seconds in the largest unit that fits: 42 s, 3 min, 2 h, 5 d."""
    if seconds is None:
        return "-"
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < most:
            return f"{max(0.0, seconds) / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
