"""Checkpoints: taken on the training thread, published beside it, verified when read.

Publishing: both files, their manifest with sizes and SHA-256, then the head (job.head) by
compare-and-swap, and only after that the deletion of what the head named no more. A reader that
starts at the head never sees half a checkpoint.
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

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from job.document import Body, Damaged, seal
from job.head import Head, HeadDocument, Kept, delete_checkpoint
from job.snapshot import Snapshot
from job.store import CHUNK, Corrupt, Missing, Store, Unavailable
from job.stored import read


class Facts(NamedTuple):
    """What a manifest says besides the files."""

    step: int
    epoch: int
    """Epochs finished."""
    spec_hash: str
    version: str
    """Of evengrad."""
    next_seq: int
    """The first event that is not in this state's past."""
    score: float | None


Report = Callable[[Facts, int, float], None]
"""Told of every durable checkpoint: what it is, its bytes, seconds since it was taken."""


class _Slot:
    """A snapshot with what is to be said of it."""

    def __init__(self, template: Mapping[str, Tensor]) -> None:
        self.snapshot = Snapshot(template)
        self.facts: Facts | None = None
        self.taken = 0.0


class Publisher:
    """Takes snapshots and publishes them from a thread of its own.

    At most one is on its way and one waits; a newer one replaces that which waits. The second
    slot is memory of the same size as the state, and all the memory that checkpoints use.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        head: HeadDocument,
        template: Mapping[str, Tensor],
        *,
        keep: int,
        verify: bool,
        offline_seconds: float,
        store_events: Callable[[], None],
        report: Report,
    ) -> None:
        self.store, self.run, self.head = store, run, head
        self.keep, self.verify, self.offline_seconds = keep, verify, offline_seconds
        self.store_events, self.report = store_events, report
        self.failure: BaseException | None = None
        """What ended publishing for good; the training thread looks at it every step."""
        self.replaced = 0
        """Snapshots that a newer one replaced before they arrived."""
        self._free = [_Slot(template), _Slot(template)]
        self._waiting: _Slot | None = None
        self._flying: _Slot | None = None
        self._failing_since: float | None = None
        self.doomed: set[str] = set()
        """Folders that the head does not name, or no more; the next publication deletes them."""
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def take(self, tensors: Mapping[str, Tensor], values: dict[str, Any], facts: Facts) -> None:
        """Copy the state; all else happens beside the training thread."""
        with self._changed:
            if self._waiting is not None:
                self.replaced += 1
            slot = self._waiting or self._free.pop()
            slot.snapshot.take(tensors, values)
            slot.facts, slot.taken = facts, time.monotonic()
            self._waiting = slot
            self._changed.notify_all()

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits or flies; whether that came about in so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self.failure is not None, timeout)
            return self._idle and self.failure is None

    def close(self) -> None:
        """End the thread when what flies is down; what waits stays behind."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def _idle(self) -> bool:
        return self._waiting is None and self._flying is None

    def _work(self) -> None:
        with suppress(OSError):  # where the process is nicer still
            # Linux schedules each thread by its own niceness: hashing yields to training.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                if self._closing:
                    return
                slot, self._waiting = self._waiting, None
                assert slot is not None
                self._flying = slot
            try:
                self._publish_patiently(slot)
            except BaseException as failure:  # handed to the training thread, which raises it
                self.failure = failure
            with self._changed:
                self._flying = None
                self._free.append(slot)
                self._changed.notify_all()
                if self.failure is not None:
                    return

    def _publish_patiently(self, slot: _Slot) -> None:
        """Publish, through outages of the store; give up for a newer snapshot, or at the bound."""
        pause = 0.5
        while True:
            try:
                self._publish(slot)
            except (Unavailable, Corrupt, Damaged, Missing):  # the last three: found by verifying
                now = time.monotonic()
                self._failing_since = self._failing_since or now  # newer snapshots do not reset it
                if now - self._failing_since > self.offline_seconds:
                    raise
                with self._changed:
                    if self._changed.wait_for(
                        lambda: self._waiting is not None or self._closing, pause
                    ):
                        self.replaced += self._waiting is not None
                        return
                pause = min(pause * 2, 15.0)
            else:
                self._failing_since = None
                assert slot.facts is not None
                self.report(slot.facts, slot.snapshot.size, time.monotonic() - slot.taken)
                return

    def _publish(self, slot: _Slot) -> None:
        assert slot.facts is not None
        head = self.head.body
        folder = f"checkpoints/{slot.facts.step}-{head.epoch}"
        if folder in head.named():
            return  # the same state; nothing that counts is written over
        self.doomed.add(folder)  # until the head names it
        for file, data in slot.snapshot.files().items():
            self.store.upload(f"{self.run}/{folder}/{file}", _pieces(data))
        sealed = manifest(slot.snapshot, slot.facts, head.epoch)
        self.store.put(f"{self.run}/{folder}/manifest.json", sealed)
        kept = Kept(
            folder=folder,
            step=slot.facts.step,
            manifest=hashlib.sha256(sealed).hexdigest(),
            score=slot.facts.score,
        )
        if self.verify:  # before anything older goes
            _, contents = read(self.store, self.run, kept)
            for pieces in contents.values():
                deque(pieces, maxlen=0)
        # Before the run can go on from here, all that was recorded up to here must be stored.
        self.store_events()
        self._swap(head, kept)

    def _swap(self, head: Head, kept: Kept) -> None:
        """Make the head name a checkpoint; delete what it then names no more."""
        others = [old for old in head.checkpoints if old.folder != kept.folder]
        best = head.best
        if kept.score is not None and (
            best is None or best.score is None or kept.score < best.score
        ):
            best = kept
        newest = [kept, *others][: self.keep]
        after = head.model_copy(update={"checkpoints": newest, "best": best})
        self.head.write(after)
        self.doomed = (self.doomed | head.named()) - after.named()
        with suppress(Unavailable):  # this checkpoint is durable; the next one tries again
            for folder in sorted(self.doomed):
                delete_checkpoint(self.store, self.run, folder)
                self.doomed.remove(folder)


def manifest(snapshot: Snapshot, facts: Facts, lease_epoch: int) -> bytes:
    """What proves that a checkpoint is whole, and the state that is not in tensors."""
    files = {
        file: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for file, data in snapshot.files().items()
    }
    facts_and_values = {**facts._asdict(), "values": snapshot.values}
    return seal({"schema": 1, "lease_epoch": lease_epoch, "files": files, **facts_and_values})


def _pieces(data: memoryview) -> Iterator[memoryview]:
    for first in range(0, len(data), CHUNK):
        yield data[first : first + CHUNK]


# --- reading ------------------------------------------------------------------------------------


class Restored(NamedTuple):
    """A verified checkpoint."""

    kept: Kept
    manifest: Body
    tensors: dict[str, Tensor]


def restore(
    store: Store, run: str, head: Head, damaged: Callable[[Kept, str], None]
) -> Restored | None:
    """The newest checkpoint that is as it was written; None where the head names none.

    `damaged` is told of each that is not. Raises Damaged where none is left.
    """
    candidates = list(head.checkpoints)
    if head.best is not None and head.best.folder not in {k.folder for k in candidates}:
        candidates.append(head.best)
    candidates.sort(key=lambda kept: kept.step, reverse=True)
    for kept in candidates:
        try:
            return _load(store, run, kept)
        except (Damaged, Missing, Corrupt) as fault:
            damaged(kept, str(fault))
    if candidates:
        names = ", ".join(kept.folder for kept in candidates)
        raise Damaged(f"no checkpoint of run {run} is intact; tried {names}")
    return None


def _load(store: Store, run: str, kept: Kept) -> Restored:
    manifest, contents = read(store, run, kept)
    tensors: dict[str, Tensor] = {}
    for file, pieces in contents.items():
        try:
            tensors |= safetensors.torch.load(b"".join(pieces))
        except SafetensorError as fault:
            raise Damaged(f"{run}/{kept.folder}/{file}: {fault}") from fault
    return Restored(kept, manifest, tensors)
