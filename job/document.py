"""Small JSON documents: damage shows, and only who read the last version may replace it."""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import suppress
from typing import Any

from job.store import Conflict, Missing, Store, Unavailable

Body = dict[str, Any]


class Damaged(ValueError):
    """A stored object is not what was written."""


class Fenced(Exception):
    """Another process has taken this run over; this one may write no more."""


def seal(body: Body) -> bytes:
    """The document's bytes: its body and the SHA-256 of that, in hex."""
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode()


def unseal(data: bytes, where: str) -> Body:
    """The body that was sealed; raises Damaged if a single bit is not as it was."""
    try:
        body: Body = json.loads(data)
        del body["sha256"]
        intact = seal(body) == data
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise Damaged(f"{where} is damaged: it does not have the SHA-256 that it was written with")
    return body


class Document:
    """One sealed object that its holder replaces by compare-and-swap."""

    def __init__(self, store: Store, key: str, fenced: bool = True) -> None:
        self.store, self.key, self.fenced = store, key, fenced
        self.damaged = False
        """Whether it was when it was last read."""
        self._etag: str | None = None
        self._unsure: list[bytes] = []
        """Written since the last answer came: any of it may lie there."""

    def read(self) -> Body | None:
        """The body, and from now on the version to be replaced; None where there is none.

        Raises Damaged; a write then replaces the damaged version.
        """
        self.damaged = False
        try:
            found = self.store.get(self.key)
        except Missing:
            self._etag = None
            return None
        self._etag = found.etag
        try:
            return unseal(found.data, f"{self.store.url}/{self.key}")
        except Damaged:
            self.damaged = True
            raise

    def write(self, body: Body) -> None:
        """Replace the version last read or written here; raises Fenced where it is another by now.

        Without fencing it replaces whatever is there.
        """
        data = seal({**body, "nonce": uuid.uuid4().hex})  # tells our own write from another's
        if not self.fenced:
            self._etag = self.store.put(self.key, data)
            return
        try:
            self._etag = self._put(data)
        except Conflict as conflict:
            raise Fenced(f"another process has written {self.key}") from conflict
        except Unavailable:
            self._unsure.append(data)
            raise
        self._unsure.clear()

    def _put(self, data: bytes) -> str:
        try:
            return self._put_over_known(data)
        except Conflict:
            if not self._was_mine():
                raise
        return self._put_over_known(data)

    def _put_over_known(self, data: bytes) -> str:
        if self._etag is None:
            return self.store.put_if_absent(self.key, data)
        return self.store.put_if_match(self.key, data, self._etag)

    def _was_mine(self) -> bool:
        """Whether what lies there is a write of this document whose answer never came."""
        with suppress(Missing):
            now = self.store.get(self.key)
            if now.data in self._unsure:
                self._etag = now.etag
                return True
        return False
