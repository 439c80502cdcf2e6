"""The licence notes of what a network began with: weights, and files that its code reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from job.spec import JobSpec

NAMES = ("licen", "notice", "copying")
"""Parts of the names, in lower case, of files that hold a licence or a notice."""
FOLDER = "licences"
LONGEST = 1 << 20
"""Bytes of such a file, at most."""


class Source(NamedTuple):
    """Something that was made by others, or in another run."""

    file: str
    """As the spec names it."""
    sha256: str
    what: str
    """What the network has of it."""
    metadata: dict[str, str]
    """What the file says of itself, if it is a safetensors file."""
    notes: list[Path]
    """Files beside it with a licence or a notice."""


def sources(spec: JobSpec, folder: Path) -> list[Source]:
    """What the network began with; paths in the spec are relative to `folder`."""
    found = []
    if (weights := spec.model.weights) is not None:
        what = f"the tensors {', '.join(weights.parts)}"
        found.append(_source(weights.path, weights.sha256, what, folder))
    for path, section in spec.own_code.items():
        inside = (folder / section.file).parent
        for name, digest in section.sha256.items():
            what = f"read by the code of {path}"
            found.append(_source(name, digest, what, inside))
    return found


def copy_notes(found: list[Source], out: Path) -> dict[Path, str]:
    """Copy the notes into a folder of the package; returns their names there."""
    copied: dict[Path, str] = {}
    for source in found:
        for note in source.notes:
            if note not in copied:
                (out / FOLDER).mkdir(exist_ok=True)
                name = f"{FOLDER}/{len(copied) + 1}-{note.name}"
                shutil.copyfile(note, out / name)
                copied[note] = name
    return copied


def _source(file: str, sha256: str, what: str, folder: Path) -> Source:
    if file.startswith("s3://"):
        return Source(file, sha256, what, {}, [])
    path = folder / file
    notes = [
        each
        for each in sorted(path.parent.iterdir() if path.parent.is_dir() else ())
        if any(part in each.name.lower() for part in NAMES)
        and each.is_file()
        and each.stat().st_size <= LONGEST
    ]
    return Source(file, sha256, what, _metadata(path), notes)


def _metadata(path: Path) -> dict[str, str]:
    """What the head of a safetensors file says in words."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(min(size, LONGEST))
    try:
        said = json.loads(text).get("__metadata__", {})
    except (ValueError, AttributeError):
        return {}
    return {str(k): str(v) for k, v in said.items()} if isinstance(said, dict) else {}
