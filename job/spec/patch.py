"""Edits of a spec file, as JSON Patch (RFC 6902) or applied; its text for another folder."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.spec.job_spec import JobSpec
from job.spec.read import parse_spec

Json = dict[str, Any]
STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
"""A step of a path such as `$.tasks[1].loss`."""


@dataclass(frozen=True)
class Edit:
    """One value of a spec that is set."""

    path: tuple[str | int, ...]
    """Keys from the top; -1 is the end of a list."""
    value: Any
    """A JSON value."""

    def __str__(self) -> str:
        keys = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path)
        return f"${''.join(keys)} = {json.dumps(self.value)}"


def patch(raw: Json, edits: Sequence[Edit]) -> list[Json]:
    """The edits of a spec file as JSON Patch; a missing section is added whole."""
    operations = []
    now = copy.deepcopy(raw)
    for edit in edits:
        operation = _operation(now, edit)
        operations.append(operation)
        _set(now, edit)
    return operations


def applied(raw: Json, edits: Sequence[Edit]) -> Json:
    """A copy of the file's content with the edits applied."""
    now = copy.deepcopy(raw)
    for edit in edits:
        _set(now, edit)
    return now


def edited(spec: JobSpec, edits: Sequence[Edit]) -> JobSpec:
    """The spec with the edits applied; raises InputError if the result is invalid."""
    return parse_spec(json.dumps(applied(json.loads(spec.canonical()), edits))) if edits else spec


def moved(content: Json, source: Path, out: Path) -> str:
    """The text of a spec file `out` with the content of a spec in `source`; raises InputError.

    Relative paths lead to the same files.
    """
    here, there = source.resolve().parent, out.resolve().parent
    content = copy.deepcopy(content)
    spec = parse_spec(json.dumps(content), str(source))
    named = spec.files | {f"{where}.file": own.file for where, own in spec.own_code.items()}
    named |= {where: run for where, run in spec.named_runs.items() if (here / run).is_dir()}
    for where, path in named.items():
        if "://" not in path and not os.path.isabs(path):
            *sections, last = (key or int(index) for key, index in STEP.findall(where))
            inner: Any = content
            for section in sections:
                inner = inner[section]
            inner[last] = os.path.relpath(here / path, there)
    schema = content.get("$schema")
    if isinstance(schema, str) and "://" not in schema:
        content["$schema"] = os.path.relpath(here / schema, there)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _operation(raw: Any, edit: Edit) -> Json:
    """`replace` for a value that exists, else `add` of the first section that is missing."""
    pointer, here, value = "", raw, edit.value
    for i, key in enumerate(edit.path):
        last = i + 1 == len(edit.path)
        pointer += "/" + ("-" if key == -1 else str(key).replace("~", "~0").replace("/", "~1"))
        there = key in here if isinstance(here, dict) else key != -1
        if not there:
            for inner in reversed(edit.path[i + 1 :]):
                value = [value] if inner == -1 else {inner: value}
            return {"op": "add", "path": pointer, "value": value}
        if not last:
            here = here[key]
    return {"op": "replace", "path": pointer, "value": value}


def _set(raw: Any, edit: Edit) -> None:
    *sections, last = edit.path
    here = raw
    for i, key in enumerate(sections):
        if isinstance(here, dict) and key not in here:
            here[key] = [] if edit.path[i + 1] == -1 else {}
        here = here[key]
    if last == -1:
        here.append(edit.value)
    else:
        here[last] = edit.value
