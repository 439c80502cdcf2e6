"""The report: one HTML file of one run or of several, which needs only a browser.

The page is made of `assets/`, with its data, scripts and style inside.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from job.events.log import Line
from job.report.gather import gather
from job.report.titles import titles
from job.runs.rows import Row
from job.spec.diff import differences
from job.spec.tasks import METRICS
from job.store import Store
from job.version import VERSION

NUMBERS = 900_000
"""Numbers that all charts of a page have together, at most; about nine bytes each."""
MARK = '<meta name="generator" content="evengrad report">'
"""Marks a file as a report; among the first lines."""
SCRIPTS = (
    "dom.js",
    "zoom.js",
    "marks.js",
    "chart.js",
    "heatmap.js",
    "tables.js",
    "predictions.js",
    "evaluated.js",
    "report.js",
)


def report(runs: Sequence[tuple[Store, str]]) -> str:
    """The page of runs, each `<name>/<run id>` in its store; raises as `read_history`."""
    return page([gather(store, run, NUMBERS // len(runs)) for store, run in runs])


def page(runs: Sequence[Line]) -> str:
    """The page of runs, from their gathered data."""
    data = {
        "version": VERSION,
        "metrics_with_unit": [name for name, metric in METRICS.items() if metric.has_unit],
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": [{**run, "titles": titles(run)} for run in runs],
        "differences": [
            {"where": where.removeprefix("$."), "values": values}
            for where, values in differences([run["spec"] for run in runs])
        ],
    }
    library = {
        "style": _read("uPlot.min.css"),
        "licence": "/*\n" + _read("uPlot.LICENSE") + "*/\n",
        "library": _read("uPlot.iife.min.js"),
    }
    return made_of(", ".join(run["run"] for run in runs), data, SCRIPTS, library)


def list_page(store: Store, rows: Sequence[Row]) -> str:
    """The page of all runs of a store, in a table that can be sorted."""
    folder = Path(store.url)
    data = {
        "version": VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "store": store.url,
        "rows": [
            {
                **row.model_dump(mode="json"),
                "least": row.least[0] if row.least else None,
                "link": (folder / row.run / "report.html").as_uri()
                if row.report and folder.is_absolute()
                else None,
            }
            for row in rows
        ],
    }
    return made_of(f"runs in {store.url}", data, ("dom.js", "list.js"), {})


def made_of(title: str, data: Line, scripts: Sequence[str], library: Mapping[str, str]) -> str:
    """A page of its data and scripts; library: parts of the page that only charts need."""
    parts = {
        "mark": MARK,
        "title": html.escape(title),
        "style": library.get("style", "") + _read("report.css"),
        "licence": library.get("licence", ""),
        "library": library.get("library", ""),
        "script": "".join(_read(name) for name in scripts),
        "data": embedded(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("report.html"))


def embedded(value: Any) -> str:
    """JSON that cannot end a script element, whatever its strings are."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def _read(name: str) -> str:
    return (files("job.report") / "assets" / name).read_text("utf-8")
