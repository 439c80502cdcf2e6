"""Objects that outlive a process, by key: in a local directory or in S3."""

from job.store.base import (
    AccessLost,
    Conflict,
    Corrupt,
    Encryption,
    Forbidden,
    Missing,
    Store,
    Stored,
    StoreError,
    Unavailable,
    Unsupported,
    WrongServer,
    retry_until,
)
from job.store.open import open_objects, open_store, read_object

__all__ = [
    "AccessLost",
    "Conflict",
    "Corrupt",
    "Encryption",
    "Forbidden",
    "Missing",
    "Store",
    "StoreError",
    "Stored",
    "Unavailable",
    "Unsupported",
    "WrongServer",
    "open_objects",
    "open_store",
    "read_object",
    "retry_until",
]
