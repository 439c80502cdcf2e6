"""Where a run leaves what must survive it: one interface, a local directory, S3 elsewhere.

The store is all that the job and the deployer share. Keys are posix paths under the store's
root, such as `smoke/r1/checkpoints/20/manifest.json`; no part of a key begins with a dot.

    StoreError
    ├── Missing      there is no such object (S3: 404 NoSuchKey and nothing else)
    ├── Conflict     a precondition failed: another writer was first
    ├── Forbidden    credentials are missing, wrong or may not do this: trying again is no use
    ├── Unavailable  no answer, or not now, after retries; after a write its outcome is unknown
    ├── Corrupt      what arrived does not have the checksum that the server stored
    └── Unsupported  the server does not know this request
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from job.faults import Fault, InputError

CHUNK = 8 << 20
"""Bytes read at a time."""
PART = 64 << 20
"""Bytes of an upload's part, and the largest object written in one piece. The strictest server
we know takes parts of at most 500 MB."""

Bytes = bytes | bytearray | memoryview
RETRY_SECONDS = 1.0
"""Between two tries of what is tried patiently."""
Result = TypeVar("Result")


class StoreError(Exception):
    """The store could not do what was asked; the message names the object and never a secret."""


class Missing(StoreError):
    """There is no such object."""


class Conflict(StoreError):
    """A precondition failed: another writer was first."""


class Forbidden(StoreError):
    """Credentials are missing, wrong or insufficient; fatal."""


class Unavailable(StoreError):
    """No answer, or an answer that may change; after a write the outcome is unknown."""


class Corrupt(StoreError):
    """What arrived does not have the checksum that the server stored."""


class Unsupported(StoreError):
    """The server does not know this request."""


class Stored(NamedTuple):
    """An object as it was read."""

    data: bytes
    etag: str
    """Opaque; changes with the content."""


class Entry(NamedTuple):
    """An object as it is listed."""

    key: str
    size: int
    """Bytes."""


class Store(Protocol):
    """Objects by key; every write is atomic, and durable when the call returns."""

    url: str
    """For messages; holds no credentials."""
    place: str
    """Tells it from every other store that this machine may reach."""

    def get(self, key: str) -> Stored:
        """The whole object; raises Missing."""

    def read(self, key: str, chunk: int = CHUNK) -> Iterator[bytes]:
        """The object in pieces of at most `chunk` bytes.

        Raises, from the first piece on, Missing, and Conflict if the object changes meanwhile.
        """

    def put(self, key: str, data: Bytes) -> str:
        """Write unconditionally; returns the etag."""

    def put_if_absent(self, key: str, data: Bytes) -> str:
        """Write unless the key exists; returns the etag, raises Conflict.

        `data` must hold a nonce of this writer: after a lost answer it is by its content that a
        writer knows its own object again.
        """

    def put_if_match(self, key: str, data: Bytes, etag: str) -> str:
        """Replace the object that has this etag; returns the new one, raises Conflict.

        `data` must hold a nonce, as for `put_if_absent`.
        """

    def upload(self, key: str, parts: Iterable[Bytes], part: int = PART) -> str:
        """Write what `parts` yields, holding at most three times `part` bytes; returns the etag.

        What fails, `parts` included, leaves neither an object nor a piece of one; a killed
        process leaves pieces for `abort_uploads`. Only after Unavailable may the object be there.
        """

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects whose key begins with `prefix`, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""

    def abort_uploads(self, prefix: str = "") -> int:
        """Remove what unfinished uploads under `prefix` left; returns how many there were.

        An upload still running elsewhere fails as Unavailable.
        """

    def conditional(self, prefix: str = "") -> bool:
        """Whether conditional writes work, tried on a scratch object under `prefix`.

        Some servers ignore the conditions and overwrite.
        """
        key = f"{prefix}probe-{uuid.uuid4().hex}"
        try:
            etag = self.put_if_absent(key, b"first")
            return (
                _conflicts(lambda: self.put_if_absent(key, b"second"))
                and self.put_if_match(key, b"third", etag) != etag
                and _conflicts(lambda: self.put_if_match(key, b"fourth", etag))
                and self.get(key).data == b"third"
            )
        except (Conflict, Unsupported):
            return False
        finally:
            self.delete(key)


def _conflicts(write: Callable[[], str]) -> bool:
    """Whether a write is refused."""
    with suppress(Conflict):
        write()
        return False
    return True


def patiently(act: Callable[[], Result], until: float) -> Result:
    """What `act` returns, tried again while the store is out of reach.

    until: a time of the monotonic clock, after which Unavailable is raised.
    """
    while True:
        try:
            return act()
        except Unavailable:
            if time.monotonic() > until:
                raise
        time.sleep(RETRY_SECONDS)


def checked(key: str) -> str:
    """`key` as it is; raises ValueError where it could leave the root or hide in it."""
    if any(not part or part.startswith(".") for part in key.split("/")) or "\0" in key:
        raise ValueError(
            f"{key!r} is no key: it needs parts between single slashes, none beginning with a dot"
        )
    return key


def open_store(url: str | Path) -> Store:
    """The store at `s3://bucket/prefix` or in a directory; raises InputError.

    Opening one asks nothing of it; a directory is made by the first write.
    """
    # Each is imported when used: a directory need not wait for boto3, nor S3 have POSIX locks.
    scheme, separator, rest = str(url).partition("://")
    if isinstance(url, Path) or not (separator or url in ("", ".", "..") or url[:3] == "s3:"):
        from job.store_directory import DirectoryStore

        return DirectoryStore(Path(url))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket or "@" in rest or ":" in bucket:
        found = f"{scheme}://…" if "@" in rest else str(url)
        rule = "a store is s3://bucket/prefix or a directory"
        remedy = "write it so; credentials and the endpoint come from AWS_* variables"
        raise InputError([Fault("store", found, rule, remedy)])
    from job.store_s3 import S3Store

    return S3Store(bucket, prefix)
