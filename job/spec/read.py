"""Read a spec file into a JobSpec, or into every fault in it; the schema of the file."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from job.errors import Fault, InputError
from job.spec.faults.explain import explain
from job.spec.faults.strict_json import Steps, decode, text_faults
from job.spec.job_spec import JobSpec
from job.spec.own_code import pinned

LARGEST = 2**20
"""Bytes of a spec file, at most."""


def read_spec(path: Path) -> JobSpec:
    """The spec in a file, and the digests of the code that it names.

    Raises InputError with every fault, in the order of the file.
    """
    return with_digests(parse_spec(read_text(path), str(path)), path.parent)


def with_digests(spec: JobSpec, folder: Path) -> JobSpec:
    """The spec with the digests of the code that it names, whose paths start at a folder.

    Raises InputError.
    """
    own = {path: pinned(each, folder, path) for path, each in spec.own_code.items()}
    if not own:
        return spec
    tasks = []
    for k, task in enumerate(spec.tasks):
        loss = own.get(f"$.tasks[{k}].loss", task.loss)
        metrics = (own[f"$.tasks[{k}].own_metrics[{i}]"] for i in range(len(task.own_metrics)))
        tasks.append(task.model_copy(update={"loss": loss, "own_metrics": tuple(metrics)}))
    model = own.get("$.model", spec.model)
    return spec.model_copy(update={"model": model, "tasks": tuple(tasks)})


def read_text(path: Path) -> str:
    """A spec file's text; raises InputError."""
    try:
        with open_file(path) as file:
            raw = file.read(LARGEST + 1)
    except NotAFileError as error:
        fault = Fault(str(path), str(error), "a spec is a file", "name a file")
        raise InputError([fault]) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError([_unreadable(path, error)]) from error
    if len(raw) > LARGEST:
        rule, remedy = "a spec is a small JSON file", "name the spec"
        raise InputError([Fault(str(path), "more than 1 MiB", rule, remedy)])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
        rule, remedy = "the file must be UTF-8 text", "save it as UTF-8"
        raise InputError([Fault(str(path), found, rule, remedy)]) from error


class NotAFileError(OSError):
    """The path names something other than a file; the message is what it names."""


def open_file(path: Path) -> IO[bytes]:
    """A regular file, opened for reading; never waits, as opening a FIFO would.

    Raises NotAFileError, OSError, or ValueError if no system takes the path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO or pipe"}
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotAFileError(kinds.get(stat.S_IFMT(mode), "a device"))
    return os.fdopen(descriptor, "rb")


def parse_spec(text: str, where: str = "spec") -> JobSpec:
    """The spec in a JSON text; `where` names the text in faults without a JSON path.

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
    # Half characters, which are faults already, would end the validation of the rest: they become
    # "?".
    text_again = json.dumps(tree, ensure_ascii=False).encode("utf-8", "replace")
    try:
        spec = JobSpec.model_validate_json(text_again)
    except ValidationError as error:
        faults += explain(error, tree)
    if faults:
        faults.sort(key=lambda located: _rank(tree, located[0]))
        raise InputError([fault for _, fault in faults])
    return spec


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec file, without the rules between fields."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:evengrad:spec:1",
        **JobSpec.model_json_schema(by_alias=True),
        "title": "evengrad job spec",
    }


def _rank(value: Any, steps: Steps) -> list[int]:
    """Position in the file, as a sort key; a missing value comes last in its object."""
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
        case PermissionError():
            return Fault(str(path), "no permission", "the file must be readable", "chmod +r it")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Fault(str(path), reason, "the file must be readable", "correct the path")
