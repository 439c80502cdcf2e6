"""Checkpoints: taken on the training thread, published by another thread, verified when read.

The writer stores both files, then their manifest with sizes and SHA-256, then replaces the run
index (job.record.run_index) by compare-and-swap, and only then deletes what the index no longer
names. A reader that starts at the index never sees half a checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from torch import Tensor

from job.checkpoint.reader import read
from job.checkpoint.snapshot import Snapshot
from job.record.document import Damaged, Vanished, seal
from job.record.layout import MANIFEST
from job.record.manifest import FileFacts, Manifest
from job.record.run_index import Kept, RunIndex, RunIndexStore, delete_checkpoint
from job.record.spool import Spool
from job.store import Corrupt, Missing, Store, StoreError, Unavailable
from job.store.base import CHUNK


class CheckpointInfo(NamedTuple):
    """What the manifest of a checkpoint says besides its files."""

    step: int
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


Report = Callable[[CheckpointInfo, int, float], None]
"""Called with every durable checkpoint, its bytes, and the seconds since it was taken."""


class _Slot:
    """A snapshot and its info."""

    def __init__(self, template: Mapping[str, Tensor]) -> None:
        self.snapshot = Snapshot(template)
        self.info: CheckpointInfo | None = None
        self.taken = 0.0


class CheckpointWriter:
    """Takes snapshots and publishes them from a thread of its own.

    At most one is being published and one waits; a newer one replaces the one that waits, but for
    the best one so far, which waits beside it. Of the two slots, or three in such a run, each has
    the size of the state; they are all the memory that checkpoints use.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        index: RunIndexStore,
        template: Mapping[str, Tensor],
        *,
        keep: int,
        verify: bool,
        offline_seconds: float,
        store_events: Callable[[], None],
        report: Report,
    ) -> None:
        self.store, self.run, self.index = store, run, index
        self.keep, self.verify, self.offline_seconds = keep, verify, offline_seconds
        self.store_events, self.report = store_events, report
        self.failure: BaseException | None = None
        """What ended publishing for good; the training thread reads it every step."""
        self.replaced = 0
        """Snapshots that a newer one replaced before they were published."""
        self._template = template
        self._free = [_Slot(template), _Slot(template)]
        self._waiting: _Slot | None = None
        self._best: _Slot | None = None
        """The best one so far, which waits too; published before the newer one."""
        self._publishing: _Slot | None = None
        self._failing_since: float | None = None
        self.doomed: set[str] = set()
        """Folders that the index does not name; the next publication deletes them."""
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def take(
        self, tensors: Mapping[str, Tensor], values: dict[str, Any], info: CheckpointInfo
    ) -> None:
        """Copy the state; the thread does all the rest."""
        with self._changed:
            if self._waiting is not None and self._is_best(self._waiting):
                self._best, self._waiting = self._waiting, self._best
            if self._waiting is not None:
                self.replaced += 1
            slot = self._waiting or (self._free.pop() if self._free else _Slot(self._template))
            slot.snapshot.take(tensors, values)
            slot.info, slot.taken = info, time.monotonic()
            self._waiting = slot
            self._changed.notify_all()

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until every snapshot is published; False if that took longer than `timeout` s."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self.failure is not None, timeout)
            return self._idle and self.failure is None

    def close(self) -> None:
        """End the thread once the current publication is done; a waiting snapshot is dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def _idle(self) -> bool:
        return self._waiting is self._best is self._publishing is None

    def _is_best(self, slot: _Slot) -> bool:
        """True if no snapshot that is in the store, or before it on its way there, is as good."""
        others = (each for each in (self._publishing, self._best) if each is not slot)
        before = [each.info.score for each in others if each is not None and each.info is not None]
        if self.index.body.best is not None:
            before.append(self.index.body.best.score)
        score = None if slot.info is None else slot.info.score
        return score is not None and all(each is None or score < each for each in before)

    def _work(self) -> None:
        with suppress(OSError):  # if the process is nicer still
            # Linux schedules each thread by its own niceness: hashing yields to training.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                if self._closing:
                    return
                slot = self._best or self._waiting
                assert slot is not None
                if slot is self._best:
                    self._best = None
                else:
                    self._waiting = None
                self._publishing = slot
            try:
                self._publish_until_stored(slot)
            except BaseException as failure:  # handed to the training thread, which raises it
                self.failure = failure
            with self._changed:
                self._publishing = None
                self._free.append(slot)
                self._changed.notify_all()
                if self.failure is not None:
                    return

    def _publish_until_stored(self, slot: _Slot) -> None:
        """Publish, through outages of the store; give up for a newer snapshot, or at the bound."""
        pause = 0.5
        while True:
            try:
                self._publish(slot)
            except (Unavailable, Corrupt, Damaged, Missing):  # the last three: from verifying
                now = time.monotonic()
                self._failing_since = self._failing_since or now  # newer snapshots do not reset it
                if now - self._failing_since > self.offline_seconds:
                    raise
                with self._changed:
                    if self._changed.wait_for(
                        lambda: (
                            self._closing or (self._waiting is not None and not self._is_best(slot))
                        ),
                        pause,
                    ):
                        self.replaced += self._waiting is not None
                        return
                pause = min(pause * 2, 15.0)
            else:
                self._failing_since = None
                assert slot.info is not None
                self.report(slot.info, slot.snapshot.size, time.monotonic() - slot.taken)
                return

    def _publish(self, slot: _Slot) -> None:
        assert slot.info is not None
        index = self.index.body
        folder = f"checkpoints/{slot.info.step}-{index.epoch}"
        if folder in index.named():
            return  # the same state; nothing that counts is overwritten
        self.doomed.add(folder)  # until the index names it
        for file, data in slot.snapshot.files().items():
            self.store.upload(f"{self.run}/{folder}/{file}", _pieces(data))
        sealed = manifest(slot.snapshot, slot.info, index.epoch)
        self.store.put(f"{self.run}/{folder}/{MANIFEST}", sealed)
        kept = Kept(
            folder=folder,
            step=slot.info.step,
            manifest=hashlib.sha256(sealed).hexdigest(),
            score=slot.info.score,
        )
        if self.verify:  # before anything older goes
            _, contents = read(self.store, self.run, kept)
            for pieces in contents.values():
                deque(pieces, maxlen=0)
        try:
            # Before the run can go on from here, all that was recorded up to here must be stored.
            self.store_events()
            self._swap(index, kept)
        except Vanished:  # nothing is to be left of a run that was removed, and no one else has it
            with suppress(StoreError):
                delete_checkpoint(self.store, self.run, folder)
            raise

    def _swap(self, index: RunIndex, kept: Kept) -> None:
        """Make the index name a checkpoint; delete those that it no longer names."""
        others = [old for old in index.checkpoints if old.folder != kept.folder]
        best = index.best
        if kept.score is not None and (
            best is None or best.score is None or kept.score < best.score
        ):
            best = kept
        newest = [kept, *others][: self.keep]
        after = index.model_copy(update={"checkpoints": newest, "best": best})
        self.index.write(after)
        self.doomed = (self.doomed | index.named()) - after.named()
        with suppress(Unavailable):  # this checkpoint is durable; the next one tries again
            for folder in sorted(self.doomed):
                delete_checkpoint(self.store, self.run, folder)
                self.doomed.remove(folder)


def manifest(snapshot: Snapshot, info: CheckpointInfo, lease_epoch: int) -> bytes:
    """The sealed manifest of a snapshot."""
    files = {
        file: FileFacts(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for file, data in snapshot.files().items()
    }
    contents = Manifest(
        lease_epoch=lease_epoch, files=files, values=snapshot.values, **info._asdict()
    )
    return seal(contents.body())


def keep_locally(spool: Spool, snapshot: Snapshot, info: CheckpointInfo, lease_epoch: int) -> None:
    """Write a state that the store has not got into the folder `checkpoint` of the run's spool.

    Raises OSError.
    """
    folder = spool.inside("checkpoint")
    for file, data in snapshot.files().items():
        folder.write(file, data)
    folder.write(MANIFEST, manifest(snapshot, info, lease_epoch))


def _pieces(data: memoryview) -> Iterator[memoryview]:
    for first in range(0, len(data), CHUNK):
        yield data[first : first + CHUNK]
