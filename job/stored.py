"""Reading a checkpoint from the store, verified against its manifest; needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from job.document import Body, Damaged, unseal
from job.head import Kept
from job.store import Store


def read(store: Store, run: str, kept: Kept) -> tuple[Body, dict[str, Iterator[bytes]]]:
    """A checkpoint's manifest, and its files in pieces, hashed while they are read.

    Raises Damaged (the pieces do, at their end) and StoreError.
    """
    folder = f"{run}/{kept.folder}"
    data = store.get(f"{folder}/manifest.json").data
    if hashlib.sha256(data).hexdigest() != kept.manifest:
        raise Damaged(f"{folder}/manifest.json does not have the SHA-256 that the head names")
    manifest = unseal(data, f"{folder}/manifest.json")
    return manifest, {
        file: _hashed(store, f"{folder}/{file}", facts["size"], facts["sha256"])
        for file, facts in manifest["files"].items()
    }


def _hashed(store: Store, key: str, size: int, sha256: str) -> Iterator[bytes]:
    digest, found = hashlib.sha256(), 0
    for piece in store.read(key):
        digest.update(piece)
        found += len(piece)
        yield piece
    if digest.hexdigest() != sha256:
        raise Damaged(f"{key} is damaged: {found} of {size} bytes, not the manifest's SHA-256")
