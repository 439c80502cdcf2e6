"""Files in a store under their SHA-256: what is there is never replaced by something else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from job.store.base import Missing, Store


def keep_files(store: Store, folder: str, files: Mapping[Path, str]) -> None:
    """Store local files as `<folder>/<SHA-256>`; one that has another hash now is left out."""
    kept = {entry.key for entry in store.list(f"{folder}/")} if files else set()
    for path, digest in files.items():
        data, key = path.read_bytes(), f"{folder}/{digest}"
        if key not in kept and hashlib.sha256(data).hexdigest() == digest:
            store.put(key, data)


def kept_file(store: Store, folder: str, digest: str) -> bytes | None:
    """The file of that hash; None if it is not there, or is damaged."""
    with suppress(Missing):
        data = store.get(f"{folder}/{digest}").data
        if hashlib.sha256(data).hexdigest() == digest:
            return data
    return None
