"""The report: one HTML file of one run or of several, which needs nothing but a browser.

The page is `job/page`, with its data, its scripts and its style inside.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from job.journal import Line
from job.report_data import gather
from job.report_words import words
from job.store import Store
from job.version import VERSION

NUMBERS = 900_000
"""Of all charts of a page together; about nine bytes each."""
MARK = '<meta name="generator" content="evengrad report">'
"""What tells a report from every other file; among the first lines."""
SCRIPTS = ("dom.js", "zoom.js", "marks.js", "chart.js", "heatmap.js", "tables.js", "report.js")


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
    """Where the runs' specs differ, value by value: `where`, and each run's; None: it has none.

    Of sections in a list, such as tasks, `where` has their names, not their places.
    """
    specs = [dict(_leaves(run["spec"], "")) for run in runs]
    places = dict.fromkeys(where for spec in specs for where in spec)
    rows = [(where, [spec.get(where) for spec in specs]) for where in places]
    return [{"where": w, "values": v} for w, v in rows if any(value != v[0] for value in v)]


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        inner = {f"{where}.{key}".lstrip("."): each for key, each in value.items()}
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        names = [each.get("name", n) for n, each in enumerate(value)]
        if "name" in value[0]:
            yield where, names
        unnamed = [{k: v for k, v in each.items() if k != "name"} for each in value]
        inner = {f"{where}[{name}]": each for name, each in zip(names, unnamed, strict=True)}
    else:
        yield where, value
        return
    for place, each in inner.items():
        yield from _leaves(each, place)


def _read(name: str) -> str:
    return (files("job") / "page" / name).read_text("utf-8")
