"""What README.md takes from the code, the spec's fields and the map of files; `make schema`."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.fields import fields

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

MAPPED = ("job", "job/page", "deploy", "docker", "tests", "tests/bench", "tests/toy")
OTHERS = {
    "chart.js": "A chart: lines, bands from least to greatest, what happened beside them.",
    "dom.js": "Elements, numbers and colours of the page.",
    "failing.json": "The trainer that failed, as a spec.",
    "heatmap.js": "Cosines of pairs of tasks over time.",
    "marks.js": "What happened, painted on a chart: alarms, checkpoints, resumes, what was undone.",
    "nasdaq.LICENSE.md": "The licence of the bars.",
    "nasdaq.README.md": "Where the bars come from.",
    "nasdaq.csv.gz": "NASDAQ Composite, daily bars, 1999-2018.",
    "report.css": "The page's style, for light, dark, phones and paper.",
    "report.html": "The page around its data, scripts and style.",
    "report.js": "The page: its charts, and all sections in their order.",
    "smoke.json": "The spec of `make smoke`.",
    "spec.schema.json": "The spec's JSON Schema; written by `make schema`.",
    "tables.js": "The page's words and tables: verdict, gates, differences, what happened, facts.",
    "uPlot.LICENSE": "The charting library's licence, MIT.",
    "uPlot.iife.min.js": "uPlot 1.6.32, the charting library, as published.",
    "uPlot.min.css": "Its style.",
    "zoom.js": "The part of the axis that all charts show, chosen by mouse or by two fingers.",
}
"""What files say that have no docstring."""


def files() -> str:
    """Every file of MAPPED with its docstring's first line; KeyError for one that says nothing."""
    lines = []
    for folder in MAPPED:
        paths = [p for p in sorted((ROOT / folder).glob("[!.]*")) if p.is_file()]
        paths = [path for path in paths if path.stat().st_size]
        width = max(len(path.name) for path in paths)
        lines.append(f"{folder}/")
        lines += [f"  {path.name:{width}}  # {_says(path).rstrip('.')}" for path in paths]
    return "\n".join(["```text", *lines, "```"])


def _says(path: Path) -> str:
    if path.suffix != ".py":
        return OTHERS[path.name]
    text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    if not text:
        raise KeyError(f"{path} has no docstring")
    return text.split("\n")[0]


PARTS = {"spec fields": fields, "files": files}


def renewed(readme: str) -> str:
    """README's text with what stands between its markers written anew."""
    for name, write in PARTS.items():
        begin, end = f"<!-- {name}: written by `make schema` -->", f"<!-- end of {name} -->"
        before, _, rest = readme.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"README.md lacks the markers of {name}")
        readme = f"{before}{begin}\n\n{write().strip()}\n\n{end}{after}"
    return readme


if __name__ == "__main__":
    README.write_text(renewed(README.read_text("utf-8")), "utf-8")
