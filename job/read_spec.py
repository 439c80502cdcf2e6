"""From a spec file to a JobSpec, or to every fault in it; and the schema of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from job.faults import Fault, InputError
from job.spec import JobSpec
from job.spec_faults import explain
from job.strict_json import Steps, decode, text_faults

LARGEST = 2**20


def read_spec(path: Path) -> JobSpec:
    """The spec in a file.

    Raises InputError with every fault, in the order of the file.
    """
    return parse_spec(read_text(path), str(path))


def read_text(path: Path) -> str:
    """A spec file's text; raises InputError."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError([_unreadable(path, error)]) from error
    if len(raw) > LARGEST:
        raise InputError(
            [Fault(str(path), "more than 1 MiB", "a spec is a small JSON file", "name the spec")]
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
        raise InputError(
            [Fault(str(path), found, "the file must be UTF-8 text", "save it as UTF-8")]
        ) from error


def parse_spec(text: str, where: str = "spec") -> JobSpec:
    """The spec in a JSON text; `where` names the text in faults that have no JSON path.

    Raises InputError with every fault, in the order of the text.
    """
    if text.startswith("\ufeff"):
        rule = "the text must begin with JSON"
        raise InputError([Fault(where, "a byte order mark", rule, "save it as UTF-8 without BOM")])
    if not text.strip():
        raise InputError([Fault(where, "nothing", "a spec is a JSON object", "write a spec")])
    tree = decode(text, where)
    faults = list(text_faults(tree))
    # Strict validation takes a list for a tuple only from JSON, so the tree is written once more.
    # Half characters, already told of, would end the validation of all the rest: they become "?".
    again = json.dumps(tree, ensure_ascii=False).encode("utf-8", "replace")
    try:
        spec = JobSpec.model_validate_json(again)
    except ValidationError as error:
        faults += explain(error, tree)
    if faults:
        faults.sort(key=lambda located: _rank(tree, located[0]))
        raise InputError([fault for _, fault in faults])
    return spec


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec file; rules between fields are not in it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:evengrad:spec:1",
        **JobSpec.model_json_schema(by_alias=True),
        "title": "evengrad job spec",
    }


def _rank(value: Any, steps: Steps) -> list[int]:
    """Position in the file, to sort by; what is missing comes last in its object."""
    rank: list[int] = []
    for step in steps:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if step not in keys:
            return [*rank, len(keys)]
        rank.append(keys.index(step))
        value = value[step]
    return rank


def _unreadable(path: Path, error: OSError | ValueError) -> Fault:
    match error:
        case FileNotFoundError():
            return Fault(str(path), "no such file", "a spec file is needed", "correct the path")
        case IsADirectoryError():
            return Fault(str(path), "a directory", "a spec is a file", "name a file in it")
        case PermissionError():
            return Fault(str(path), "no permission", "the file must be readable", "chmod +r it")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Fault(str(path), reason, "the file must be readable", "correct the path")
