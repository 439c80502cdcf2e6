"""The study in the store, in the format of Optuna's journals: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import (
    BaseJournalBackend,
    JournalFileBackend,
    JournalFileSymlinkLock,
)

from job.record.document import Damaged
from job.store import Conflict, Missing, Store, open_store
from job.store.directory import DirectoryStore


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


class StoreJournal(BaseJournalBackend):
    """A journal that is one object of a store, written by compare-and-swap.

    Its first line never changes, so what was read stays valid. Every line names the process that
    wrote it, which is the nonce that a conditional write needs.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store, self.key = store, key

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The entries from a number on; raises StoreError."""
        data, _ = self._read()
        return [json.loads(line) for line in data.splitlines()[log_number_from:]]

    def check(self) -> None:
        """Raises Damaged if a line is no entry of a journal, and StoreError."""
        data, _ = self._read()
        for number, line in enumerate(data.splitlines(), 1):
            if not _is_entry(line):
                place = f"{self.store.url}/{self.key}, line {number}"
                remedy = "put a copy back, or give --study another name; the runs are untouched"
                raise Damaged(f"{place}: it is no entry of a study's journal; {remedy}")

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries, after those that other processes append meanwhile; raises StoreError."""
        more = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        while True:
            data, etag = self._read()
            try:
                if etag is None:
                    self.store.put_if_absent(self.key, more)
                else:
                    self.store.put_if_match(self.key, data + more, etag)
                return
            except Conflict:
                continue

    def _read(self) -> tuple[bytes, str | None]:
        try:
            return self.store.get(self.key)
        except Missing:
            return b"", None


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and {"op_code", "worker_id"} <= entry.keys()
