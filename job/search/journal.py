"""The study in the store, in the format of Optuna's journals: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from job.store import Conflict, Missing, Store, open_store
from job.store.directory import DirectoryStore


def journal_key(name: str, study: str) -> str:
    """The key of a study's journal in the store of its runs; no run's id has a dot."""
    return f"{name}/{study}.journal"


def open_journal(store: Store | str, key: str) -> JournalStorage:
    """The journal as a storage of Optuna's.

    store: the store, or its URL. In a directory it is the file that Optuna writes itself. Raises
    StoreError, InputError.
    """
    if isinstance(store, str):
        store = open_store(store)
    if not isinstance(store, DirectoryStore):
        return JournalStorage(StoreJournal(store, key))
    path = Path(store.root, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


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
