"""The spec file that a diagnosis leaves: the user's own, with the edits."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from job.edit import Edit, Json, applied
from job.faults import Fault, InputError
from job.read_spec import parse_spec


def check_free(out: Path) -> None:
    """Raise InputError where nothing can be written, or something is there already."""
    if os.path.lexists(out):
        rule, remedy = "a file that is there is never overwritten", "name another"
        raise InputError([Fault(f"--fix {out}", "a file of that name", rule, remedy)])
    folder = out.resolve().parent
    if not folder.is_dir():
        rule = "its folder must exist"
        raise InputError([Fault(f"--fix {out}", "no such folder", rule, "make it")])
    if not os.access(folder, os.W_OK):
        rule = "its folder must be writable"
        raise InputError([Fault(f"--fix {out}", "no permission", rule, "name another")])


def content(raw: Json, edits: Sequence[Edit], source: Path, out: Path) -> str:
    """The edited file's text, valid, its relative paths meant from where it will lie."""
    spec = applied(raw, edits)
    here, there = source.resolve().parent, out.resolve().parent
    path = spec["data"]["path"]
    if not path.startswith("s3://") and not os.path.isabs(path):
        spec["data"]["path"] = os.path.relpath(here / path, there)
    schema = spec.get("$schema")
    if isinstance(schema, str) and "://" not in schema:
        spec["$schema"] = os.path.relpath(here / schema, there)
    text = json.dumps(spec, indent=2, ensure_ascii=False) + "\n"
    parse_spec(text, str(out))
    return text


def write(text: str, out: Path) -> None:
    """Write it where nothing is; raises InputError."""
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError(
            [Fault(f"--fix {out}", found, "the file must be writable", "name another")]
        ) from error
