"""The report: one HTML file of one run or of several, which needs nothing but a browser.

The page is `job/page`, with its data, its scripts and its style inside.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from job.journal import Line
from job.report_data import gather
from job.report_words import words
from job.spec_diff import compared
from job.store import Store
from job.version import VERSION

NUMBERS = 900_000
"""Of all charts of a page together; about nine bytes each."""
MARK = '<meta name="generator" content="evengrad report">'
"""What tells a report from every other file; among the first lines."""
SCRIPTS = ("dom.js", "chart.js", "heatmap.js", "report.js")


def report(runs: Sequence[tuple[Store, str]]) -> str:
    """The page of runs, each `<name>/<run id>` in its store; raises as `read_history`."""
    told = [gather(store, run, NUMBERS // len(runs)) for store, run in runs]
    return page(told)


def page(runs: Sequence[Line]) -> str:
    """The page of what was gathered."""
    data = {
        "version": VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": [{**run, "words": words(run)} for run in runs],
        "differences": differences(runs),
    }
    parts = {
        "mark": MARK,
        "title": html.escape(", ".join(run["run"] for run in runs)),
        "style": _read("uPlot.min.css") + _read("report.css"),
        "licence": "/*\n" + _read("uPlot.LICENSE") + "*/\n",
        "library": _read("uPlot.iife.min.js"),
        "script": "".join(_read(name) for name in SCRIPTS),
        "data": embedded(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("report.html"))


def embedded(value: Any) -> str:
    """JSON that ends no script element, whatever is in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def differences(runs: Sequence[Line]) -> list[Line]:
    """Where the runs' specs differ from the first one's: `where`, and every run's value."""
    first, *others = (run["spec"] for run in runs)
    rows: dict[str, list[Any]] = {}
    for i, other in enumerate(others, 1):
        for where, before, now in compared(first, other):
            rows.setdefault(where, [before] * len(runs))[i] = now
    return [{"where": where, "values": values} for where, values in rows.items()]


def _read(name: str) -> str:
    return (files("job") / "page" / name).read_text("utf-8")
