"""`manifest.json` of a checkpoint: what proves that its files are whole, and the state in JSON."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from job.record.document import Contents, Damaged, unseal
from job.record.layout import MANIFEST, MODEL, STATE


class FileFacts(BaseModel):
    """What a file must be."""

    model_config = ConfigDict(frozen=True)

    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: str


class Manifest(Contents):
    """One checkpoint."""

    FILE: ClassVar[str] = MANIFEST

    lease_epoch: int
    """Of the writer."""
    files: dict[Annotated[str, Field(pattern=f"^({MODEL}|{STATE})$")], FileFacts]
    step: int
    """Steps taken."""
    epoch: int
    """Epochs finished."""
    spec_hash: str
    """SHA-256 of the spec's content."""
    version: str
    """Of evengrad."""
    next_seq: int
    """The first event that is not in this state's past."""
    score: float | None
    """Validation score, if the spec keeps the best checkpoint."""
    values: dict[str, Any]
    """The state that is not in tensors."""


def read_manifest(data: bytes, key: str) -> Manifest:
    """The manifest that was sealed; raises Damaged, also if it is of another folder."""
    manifest = Manifest.parse(unseal(data, key), key)
    folder = f"checkpoints/{manifest.step}-{manifest.lease_epoch}"
    if f"/{key}".endswith(f"/{folder}/{MANIFEST}"):
        return manifest
    raise Damaged(f"{key} is damaged: it is the manifest of {folder}")
