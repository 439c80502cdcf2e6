"""Reading a checkpoint from the store, verified against its manifest; needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from job.record.document import Damaged
from job.record.layout import MANIFEST
from job.record.manifest import FileFacts, Manifest, read_manifest
from job.record.run_index import Kept
from job.store import Store


def read(store: Store, run: str, kept: Kept) -> tuple[Manifest, dict[str, Iterator[bytes]]]:
    """A checkpoint's manifest, and its files in pieces, which are hashed while they are read.

    Raises Damaged (for a file, its iterator raises it) and StoreError.
    """
    folder = f"{run}/{kept.folder}"
    data = store.get(f"{folder}/{MANIFEST}").data
    if hashlib.sha256(data).hexdigest() != kept.manifest:
        raise Damaged(f"{folder}/{MANIFEST} does not have the SHA-256 that the run index names")
    manifest = read_manifest(data, f"{folder}/{MANIFEST}")
    return manifest, {
        file: _hashed(store, f"{folder}/{file}", facts) for file, facts in manifest.files.items()
    }


def _hashed(store: Store, key: str, facts: FileFacts) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    for piece in store.read(key):
        digest.update(piece)
        size += len(piece)
        if size > facts.size:  # however much more there is
            break
        yield piece
    if digest.hexdigest() != facts.sha256:
        raise Damaged(
            f"{key} is damaged: {size} of {facts.size} bytes, without the manifest's SHA-256"
        )
