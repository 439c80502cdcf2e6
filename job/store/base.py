"""The interface of a store, and its errors.

A store keeps what must outlive a process; it is all that the job and the deployer share. Keys are
posix paths under the store's root, such as `smoke/r1/checkpoints/20/manifest.json`; no part of a
key begins with a dot.

    StoreError
    ├── Missing         there is no such object (S3: 404 NoSuchKey and nothing else)
    ├── Conflict        a precondition failed: another writer was first
    ├── Forbidden       the server has refused this from the start: trying again is no use
    ├── Unavailable     no answer, or not now, after retries; after a write its outcome is unknown
    │   └── AccessLost  the server refuses what it granted before
    ├── Corrupt         the data received do not have the checksum that the server stored
    ├── Unsupported     the server does not know this request
    └── WrongServer     the answer is none of S3's
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol, TypeVar

CHUNK = 8 << 20
"""Bytes read at a time."""
PART = 64 << 20
"""Bytes of an upload's part, and the largest object written in one piece. The strictest server
we know takes parts of at most 500 MB."""

Bytes = bytes | bytearray | memoryview
RETRY_SECONDS = 1.0
"""Between two tries of `retry_until`."""
Result = TypeVar("Result")


class StoreError(Exception):
    """An operation failed; the message names the object and never holds a secret."""


class Missing(StoreError):
    """There is no such object."""


class Conflict(StoreError):
    """A precondition failed: another writer was first."""


class Forbidden(StoreError):
    """Credentials are missing, wrong or insufficient, or the server refuses for another reason."""


class Unavailable(StoreError):
    """No answer, or an answer that may change; after a write the outcome is unknown."""


class AccessLost(Unavailable):
    """The server refuses credentials that it accepted before: replaced keys, an expired token."""


class Corrupt(StoreError):
    """The data received do not have the checksum that the server stored."""


class Unsupported(StoreError):
    """The server does not know this request."""


class WrongServer(StoreError):
    """The answer is none that an S3 server gives."""


class Encryption(Protocol):
    """How a server is asked to encrypt what it stores."""

    @property
    def kind(self) -> Literal["sse-s3", "aws:kms"]:
        """With the server's own key, or with one of its key management."""

    @property
    def key_id(self) -> str | None:
        """Of aws:kms; None for the account's default key."""


class Stored(NamedTuple):
    """An object as it was read."""

    data: bytes
    etag: str
    """Opaque; changes with the content."""


class Entry(NamedTuple):
    """One object of a list."""

    key: str
    size: int
    """Bytes."""


class Store(Protocol):
    """Objects by key; every write is atomic, and durable when the call returns."""

    url: str
    """For messages; holds no credentials."""
    place: str
    """Identifies the store among all that this machine may reach."""

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

        `data` must hold a nonce of this writer: after a lost answer the writer recognizes its own
        object by the content.
        """

    def put_if_match(self, key: str, data: Bytes, etag: str) -> str:
        """Replace the object that has this etag; returns the new one, raises Conflict.

        `data` must hold a nonce, as for `put_if_absent`.
        """

    def upload(self, key: str, parts: Iterable[Bytes], part: int = PART) -> str:
        """Write what `parts` yields, holding at most three times `part` bytes; returns the etag.

        A failure, also one of `parts`, leaves neither an object nor a piece of one; a killed
        process leaves pieces for `abort_uploads`. Only after Unavailable may the object exist.
        """

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """All objects whose key begins with `prefix` and comes after `after`, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove the object, if it exists."""

    def abort_uploads(self, prefix: str = "") -> int:
        """Remove the pieces of unfinished uploads under `prefix`; returns how many there were.

        An upload still running elsewhere fails as Unavailable.
        """

    def conditional(self, prefix: str = "") -> bool:
        """True if conditional writes work, tried on a scratch object under `prefix`.

        Some servers ignore the conditions and overwrite. Raises StoreError, also if the object
        read back is none of those written.
        """
        key = f"{prefix}probe-{uuid.uuid4().hex}"
        try:
            etag = self.put_if_absent(key, b"first")
            heeded = (
                _conflicts(lambda: self.put_if_absent(key, b"second"))
                and self.put_if_match(key, b"third", etag) != etag
                and _conflicts(lambda: self.put_if_match(key, b"fourth", etag))
            )
            return self._last_written(key) == b"third" and heeded
        except (Conflict, Unsupported):
            return False
        finally:
            self.delete(key)

    def _last_written(self, key: str) -> bytes:
        data = self.get(key).data
        if data not in (b"first", b"second", b"third", b"fourth"):
            raise StoreError(
                f"{self.url}/{key}: the store gives back other bytes than were written; if it is "
                "S3, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required, and look at its proxies"
            )
        return data


def _conflicts(write: Callable[[], str]) -> bool:
    """True if a write is refused."""
    with suppress(Conflict):
        write()
        return False
    return True


def retry_until(act: Callable[[], Result], until: float) -> Result:
    """The result of `act`, which is tried again while the store is unavailable.

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
    """`key` as it is; raises ValueError if it could leave the root or hide in it."""
    if any(not part or part.startswith(".") for part in key.split("/")) or "\0" in key:
        raise ValueError(
            f"{key!r} is no key: it needs parts between single slashes, none beginning with a dot"
        )
    return key
