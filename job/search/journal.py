"""The study in the store, in the format of Optuna's journals: one JSON object a line."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from optuna.storages import JournalStorage
from optuna.storages.journal import (
    BaseJournalBackend,
    JournalFileBackend,
    JournalFileSymlinkLock,
)

from job.record.document import Damaged
from job.store import Conflict, Missing, Store, open_store
from job.store.directory import DirectoryStore

FULL = 32 << 10
"""Bytes of a journal's object in S3 from which on the next one begins."""


def journal_key(name: str, study: str) -> str:
    """The key of a study's journal in the store of its runs; no run's id has a dot."""
    return f"{name}/{study}.journal"


def open_journal(store: Store | str, key: str) -> JournalStorage:
    """The journal as a storage of Optuna's.

    store: the store, or its URL. In a directory it is the file that Optuna writes itself. Raises
    StoreError, InputError, Damaged.
    """
    if isinstance(store, str):
        store = open_store(store)
    journal = StoreJournal(store, key)
    if not isinstance(store, DirectoryStore):
        journal.check()
        return JournalStorage(journal)
    path = Path(store.root, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise Damaged(f"{path} is a folder, and a study's journal is a file; name another --study")
    if path.is_file():
        _cut_torn_end(path)
    journal.check()
    return JournalStorage(JournalFileBackend(str(path)))


def _cut_torn_end(path: Path) -> None:
    """Cut off a last line that has no end.

    A power cut leaves one: its entry was not yet written, and the next one would be glued to it.
    """
    if path.read_bytes()[-1:] in (b"", b"\n"):
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()  # another search may be writing that line
    try:
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    finally:
        lock.release()


class _Object(NamedTuple):
    """An object of a journal in a store."""

    number: int
    data: bytes
    etag: str | None
    """None if there is no such object yet."""


class StoreJournal(BaseJournalBackend):
    """A journal in objects of a store: its key, then `<key>.000001` and so on; for one thread.

    Entries are appended to the last object by compare-and-swap. Once that has FULL bytes it never
    changes again, and the next one begins: an entry costs FULL bytes at most, however long the
    journal is. Put together in their order, the objects are a file of Optuna's. Every line names
    the process that wrote it, which is the nonce that a conditional write needs.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store, self.key = store, key
        self._begins = [0]
        """Number of the first entry of each object, as far as they are known."""
        self._last = _Object(0, b"", None)
        """The last one, as it was read or written here."""
        self._is_exact = False
        """True right after a write: nobody has written since what was read before it."""

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The entries from a number on; raises StoreError."""
        number = bisect_right(self._begins, log_number_from) - 1
        known = self._is_exact and number == self._last.number and len(self._last.data) < FULL
        objects, self._is_exact = [self._last] if known else self._objects(number), False
        lines = b"".join(each.data for each in objects).splitlines()
        return [json.loads(line) for line in lines[log_number_from - self._begins[number] :]]

    def check(self) -> None:
        """Raises Damaged if a line is no entry of a journal, and StoreError."""
        for each in self._objects(0):
            for row, line in enumerate(each.data.splitlines(), 1):
                if not _is_entry(line):
                    place = f"{self.store.url}/{self._key(each.number)}, line {row}"
                    remedy = "put a copy back, or give --study another name; the runs are untouched"
                    raise Damaged(f"{place}: it is no entry of a study's journal; {remedy}")

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries, after those that other processes append meanwhile; raises StoreError."""
        more = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        while True:
            last = self._last
            if len(last.data) >= FULL:
                last = _Object(last.number + 1, b"", None)
            try:
                etag = self._put(last, last.data + more)
            except Conflict:
                deque(self._objects(last.number), maxlen=0)  # up to the one that is the last now
                continue
            self._last, self._is_exact = last._replace(data=last.data + more, etag=etag), True
            return

    def _objects(self, number: int) -> Iterator[_Object]:
        """The objects from one on, and after a full one the next, even if it has not begun."""
        while True:
            self._last = last = self._get(number)
            yield last
            if len(last.data) < FULL:
                return
            number += 1
            if number == len(self._begins):
                self._begins.append(self._begins[-1] + len(last.data.splitlines()))

    def _key(self, number: int) -> str:
        return f"{self.key}.{number:06d}" if number else self.key

    def _get(self, number: int) -> _Object:
        try:
            return _Object(number, *self.store.get(self._key(number)))
        except Missing:
            return _Object(number, b"", None)

    def _put(self, last: _Object, data: bytes) -> str:
        """Write the last object anew; returns its etag, raises Conflict."""
        key = self._key(last.number)
        if last.etag is None:
            return self.store.put_if_absent(key, data)
        return self.store.put_if_match(key, data, last.etag)


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and {"op_code", "worker_id"} <= entry.keys()
