"""Where a layer stands in the file of its author."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from job.diagnose.case import Case
from job.spec import Python

NAMED = 3
"""Names that a sentence lists, at most."""


def place(case: Case, layer: str) -> str:
    """`encoder.0 (network.py:12)`: a layer, and the one line that sets it, if there is just one."""
    parts = [part for part in layer.split(".") if not part.isdigit()]
    lines = (_only_line(case, rf"self\.{re.escape(part)}\s*=[^=]") for part in reversed(parts))
    line = next(filter(None, lines), None)
    return f"{layer} ({line})" if line else layer


def head(case: Case) -> str:
    """`its head (network.py:20)`: what makes the outputs, and its line if there is just one."""
    line = _only_line(case, r"def head\(") or _only_line(case, r"def forward\(")
    return f"its head ({line})" if line else "its head"


def listed(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _only_line(case: Case, pattern: str) -> str | None:
    """`network.py:12`: the one line of the author's files that a pattern matches; else None."""
    found = [
        f"{name}:{number}"
        for name, text in _sources(case)
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]
    return found[0] if len(found) == 1 else None


def _sources(case: Case) -> Iterator[tuple[str, str]]:
    """The Python files of a network of one's own, with their texts; none of a built-in one."""
    model = case.original.model
    if not isinstance(model, Python):
        return
    folder = (case.first.data.folder / model.file).parent
    for name in model.sha256 or {Path(model.file).name: ""}:
        if name.endswith(".py") and (folder / name).is_file():
            yield name, (folder / name).read_text("utf-8", errors="replace")
