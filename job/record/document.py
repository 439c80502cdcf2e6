"""Sealed JSON documents of a run: damage shows, and no writer overwrites another's version."""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import suppress
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from job.store import Conflict, Missing, Store, Unavailable

Body = dict[str, Any]
"""A document's JSON values, without the seal."""
HIGHEST_EPOCH = 10**15
"""Highest lease epoch that a document may hold; a real one has a few digits."""
LARGEST = 64 << 20
"""Bytes of the largest document that is parsed; a real one has kilobytes."""


class Damaged(ValueError):
    """A stored object is not what was written."""


class Fenced(Exception):
    """The process may write the run no more: another one has taken it over."""


class Vanished(Fenced):
    """The process may write the run no more: its documents were removed from the store."""


def seal(body: Body) -> bytes:
    """The document's bytes: its body and the SHA-256 of that, in hex."""
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode()


def unseal(data: bytes, where: str) -> Body:
    """The body that was sealed; raises Damaged if a single bit differs."""
    body: Body = {}
    intact = False
    # RecursionError: JSON that is nested deeper than any of ours.
    if len(data) <= LARGEST:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            body = json.loads(data)
            del body["sha256"]
            intact = seal(body) == data
    if not intact:
        raise Damaged(f"{where} is damaged: it does not have the SHA-256 that it was written with")
    return body


class Document:
    """One sealed object that its holder replaces by compare-and-swap."""

    def __init__(self, store: Store, key: str, fenced: bool = True) -> None:
        self.store, self.key, self.fenced = store, key, fenced
        self.damaged = False
        """True if it was damaged when it was last read."""
        self._etag: str | None = None
        self._unsure: list[bytes] = []
        """What was written since the last answer came: the store may hold any of it."""

    def read(self) -> Body | None:
        """The body, None if there is none; a later write replaces the version read here.

        Raises Damaged; a later write replaces the damaged version.
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
        """Replace the version that was last read or written here.

        Raises Fenced if another process has replaced it meanwhile, Vanished if it was removed.
        Without fencing any version is replaced.
        """
        data = seal({**body, "nonce": uuid.uuid4().hex})  # by it we know our own write again
        if not self.fenced:
            self._etag = self.store.put(self.key, data)
            return
        try:
            self._etag = self._put(data)
        except Conflict as conflict:
            raise self._lost() from conflict
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

    def _lost(self) -> Fenced:
        """Why this process may not replace the document."""
        with suppress(Missing):
            self.store.get(self.key)
            return Fenced(f"another process has written {self.key}")
        return Vanished(
            f"{self.store.url}/{self.key} has vanished: the run's folder was removed, or the store "
            "was emptied"
        )

    def _was_mine(self) -> bool:
        """True if the store holds a write of this document whose answer never came."""
        with suppress(Missing):
            now = self.store.get(self.key)
            if now.data in self._unsure:
                self._etag = now.etag
                return True
        return False


class Contents(BaseModel):
    """The typed contents of one of a run's documents. What a newer version adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    FILE: ClassVar[str]
    """Name of the document in the run's folder."""
    SCHEMA: ClassVar[int | None] = 1
    """Written as `schema`; None for a document without one."""

    @classmethod
    def key(cls, run: str) -> str:
        """Key of the run's document in its store."""
        return f"{run}/{cls.FILE}"

    @classmethod
    def parse(cls, body: Body, where: str) -> Self:
        """The contents of a document's body; raises Damaged if a field is missing or wrong."""
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise Damaged(f"{where} is damaged: {_first_fault(error)}") from None

    @classmethod
    def of(cls, document: Document) -> Self | None:
        """The contents of a document as it is now; None if there is none. Raises Damaged."""
        body = document.read()
        if body is None:
            return None
        try:
            return cls.parse(body, f"{document.store.url}/{document.key}")
        except Damaged:
            document.damaged = True
            raise

    @classmethod
    def read(cls, store: Store, run: str) -> Self | None:
        """The contents of the run's document; None if there is none. Raises Damaged, StoreError."""
        return cls.of(Document(store, cls.key(run)))

    @classmethod
    def read_or_none(cls, store: Store, run: str) -> Self | None:
        """The contents of the run's document; None if it is missing or damaged.

        Raises StoreError.
        """
        with suppress(Damaged):
            return cls.read(store, run)
        return None

    def body(self) -> Body:
        """The JSON values to write."""
        schema = {} if self.SCHEMA is None else {"schema": self.SCHEMA}
        return {**schema, **self.model_dump(mode="json")}


class GivenFields(BaseModel):
    """A mixin: of a model's optional fields only those that were given are written."""

    @model_serializer(mode="wrap")
    def _given(self, dump: SerializerFunctionWrapHandler) -> Body:
        return {k: v for k, v in dump(self).items() if k in self.model_fields_set}


def _first_fault(error: ValidationError) -> str:
    """Which field is wrong, and how."""
    first = error.errors(include_input=False, include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "the document"
    return "".join(c if c.isprintable() else "?" for c in f"{field}: {first['msg']}"[:200])
