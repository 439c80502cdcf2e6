"""The code of one's own that a run was begun with, beside its spec, by what it is.

`code/<SHA-256>` holds a file whose name the spec gives: what ran stays, whatever the file becomes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from job.spec import JobSpec, PythonFile
from job.spec.own_code import REQUIREMENTS
from job.store import Missing, Store


def keep_code(store: Store, run: str, spec: JobSpec, folder: Path) -> None:
    """Store the files that are not stored yet; folder: of the spec."""
    kept = {entry.key for entry in store.list(f"{run}/code/")} if spec.own_code else set()
    for section in spec.own_code.values():
        for name, digest in _sources(section):
            key = f"{run}/code/{digest}"
            data = (folder / section.file).parent.joinpath(name).read_bytes()
            if key not in kept and hashlib.sha256(data).hexdigest() == digest:
                store.put(key, data)


def kept_code(store: Store, run: str, spec: JobSpec) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The files by path relative to the spec; older runs have none."""
    for section in spec.own_code.values():
        for name, digest in _sources(section):
            with suppress(Missing):
                data = store.get(f"{run}/code/{digest}").data
                if hashlib.sha256(data).hexdigest() == digest:
                    yield PurePosixPath(section.file).parent / name, data


def _sources(section: PythonFile) -> Iterator[tuple[str, str]]:
    """Its Python files and requirements, with their digests; no data that they read."""
    for name, digest in section.sha256.items():
        if name.endswith(".py") or PurePosixPath(name).name == REQUIREMENTS:
            yield name, digest
