"""A run in its store: taken, resumed where it was cut off, trained, judged, given back."""

from __future__ import annotations

import hashlib
import math
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import torch
from pydantic import BaseModel

from job.checkpoint import Facts, Publisher, restore
from job.claim import Claim, write_result
from job.document import Body, Damaged, Document, Fenced, seal
from job.events import (
    Alarm,
    CheckpointSaved,
    Epoch,
    Reason,
    RunFinished,
    Superseded,
    fields,
)
from job.facts import VERSION, started
from job.head import Kept
from job.heart import Heart
from job.journal import Journal, Sink
from job.ledger import NotFinite
from job.records import Records, UploadFailed
from job.snapshot import Snapshot
from job.store import StoreError, Unavailable
from job.train import Interrupted, Training

PASSED, FAILED, GATES_FAILED, INTERRUPTED = 0, 1, 6, 75
"""Exit codes."""


class End(NamedTuple):
    """How a run ended."""

    reason: Reason
    code: int
    error: str | None = None


def run(
    training: Training, claimed: Claim, run_id: str, sinks: Sequence[Sink], grace: float = 5.0
) -> int:
    """Train as the run that was claimed; returns the exit code.

    An unfinished run goes on from its newest intact checkpoint. `grace`: seconds that a signal
    leaves for a last checkpoint. Raises Fenced where another process has taken the run over, and
    StoreError.
    """
    return Run(training, claimed, run_id, sinks, grace).execute()


class Run:
    """One attempt at a run."""

    def __init__(
        self,
        training: Training,
        claimed: Claim,
        run_id: str,
        sinks: Sequence[Sink],
        grace: float,
    ) -> None:
        self.training, self.claimed, self.run_id, self.grace = training, claimed, run_id, grace
        self.store, self.run, self.head = claimed.store, claimed.run, claimed.head
        self.keep = training.spec.checkpoint
        self.offline_seconds = self.keep.offline_minutes * 60
        self.records = Records(self.store, self.run, claimed.lease.epoch, self.offline_seconds)
        self.journal = Journal(run_id, [*sinks, self.records], claimed.last_seq + 1)
        status = Document(self.store, f"{self.run}/status.json", claimed.fenced)
        self.heart = Heart(claimed.lease, self.records, status, self._status)
        self.publisher: Publisher | None = None
        self.stop_at = math.inf
        """By the monotonic clock, once a signal has come."""
        self.durable_at: float | None = None
        """When the newest durable checkpoint was taken."""
        self.phase = "starting"
        self.losses: dict[str, float] = {}

    def execute(self) -> int:
        """Restore and train; turn every way to end into a recorded end and an exit code."""
        with self._signals():
            try:
                self._begin()
                end = self._train()
            except Interrupted:
                return self._interrupted()
            except Fenced:
                self._silence()
                raise
            except NotFinite as fault:
                end = End("failed", FAILED, str(fault))
            except torch.OutOfMemoryError as fault:
                end = End("oom", FAILED, str(fault).splitlines()[0])
            except (UploadFailed, StoreError) as fault:
                end = End("upload_failed", FAILED, str(fault))
            except Damaged as fault:
                end = End("failed", FAILED, str(fault))
            except Exception as fault:
                traceback.print_exc()
                end = End("failed", FAILED, f"{type(fault).__name__}: {fault}")
            return self._finish(end)

    def _begin(self) -> None:
        head, alarms = self.head.body, list(self.claimed.alarms)
        found = restore(
            self.store, self.run, head, lambda _, why: alarms.append(("checkpoint_damaged", why))
        )
        if found is not None:
            self.training.restore(found.tensors, found.manifest["values"])
        step = self.training.at.step
        self.journal.emit(started(self.training, step if found else None))
        after = found.manifest["next_seq"] if found else 1
        if after <= self.claimed.last_seq:
            self.journal.emit(Superseded(step=step, from_seq=after, to_seq=self.claimed.last_seq))
        for kind, why in alarms:
            self.journal.emit(Alarm(kind=kind, message=why, step=step))
        self.phase = "training"
        self.heart.start()
        tensors, _ = self.training.state()
        self.publisher = Publisher(
            self.store,
            self.run,
            self.head,
            tensors,
            keep=self.keep.keep,
            verify=self.keep.verify,
            offline_seconds=self.offline_seconds,
            store_events=self._store_events,
            report=self._saved,
        )

    def _train(self) -> End:
        assert self.publisher is not None
        self.training.run(self._emit, self._save, self._stopping)
        self.phase = "saving"
        if not self.publisher.settle():
            assert self.publisher.failure is not None
            raise self.publisher.failure
        self._wait_for_store()
        gates = self.training.verdict.final(self.training.at.epoch)
        if all(gate.passed for gate in gates):
            return End("succeeded", PASSED)
        return End("gates_failed", GATES_FAILED)

    def _wait_for_store(self) -> None:
        """Beat until no event waits locally; the heart gives up where the spec does."""
        self.heart.beat()
        while self.records.down_since is not None:
            if self._stopping():
                raise Interrupted
            time.sleep(1.0)
            self.heart.beat()

    def _emit(self, event: BaseModel) -> None:
        if isinstance(event, Epoch):
            self.losses = {name: t.train_loss_original for name, t in event.tasks.items()}
            if self.durable_at is not None:
                age = time.monotonic() - self.durable_at
                event = event.model_copy(update={"checkpoint_age": age})
        self.journal.emit(event)

    def _stopping(self) -> bool:
        """Whether a signal came; raises what ended the threads beside."""
        for beside in (self.heart, self.publisher):
            if beside is not None and beside.failure is not None:
                raise beside.failure
        return self.stop_at < math.inf

    def _facts(self) -> Facts:
        at, best_of = self.training.at, self.keep.best_of
        now = best_of is not None and at.best_epoch.get(best_of) == at.epoch and at.batch == 0
        return Facts(
            step=at.step,
            epoch=at.epoch,
            spec_hash=self.training.spec.content_hash(),
            version=VERSION,
            next_seq=self.journal.next_seq,
            score=at.best[best_of] if best_of is not None and now else None,
        )

    def _save(self) -> None:
        assert self.publisher is not None
        tensors, values = self.training.state()
        self.publisher.take(tensors, values, self._facts())

    def _store_events(self) -> None:
        """Called on the publisher's thread; raises Unavailable where events wait locally."""
        self.heart.beat()
        if self.records.down_since is not None:
            raise Unavailable("events wait for the store")

    def _saved(self, kept: Kept, size: int, seconds: float) -> None:
        """Called on the publisher's thread."""
        self.durable_at = time.monotonic() - seconds
        self.journal.emit(
            CheckpointSaved(
                step=kept.step, epoch=self.training.at.epoch, size=size, seconds=seconds
            )
        )

    def _status(self) -> Body:
        at, total = self.training.at, self.training.total_steps
        newest = self.head.body.checkpoints[0].step if self.head.body.checkpoints else None
        eta = at.seconds / at.step * (total - at.step) if at.step and at.seconds else None
        return {
            "phase": self.phase,
            "step": at.step,
            "epoch": at.epoch,
            "steps": total,
            "progress": at.step / total,
            "eta_seconds": eta,
            "boots": self.claimed.lease.epoch,
            "lease_epoch": self.claimed.lease.epoch,
            "losses": {k: v if math.isfinite(v) else None for k, v in self.losses.items()},
            "checkpoint_step": newest,
        }

    # --- the ends -------------------------------------------------------------------------------

    def _interrupted(self) -> int:
        """Events and status first, then a last checkpoint if the grace suffices."""
        self.phase = "interrupted"
        self._beat_once()
        self._save()
        assert self.publisher is not None
        saved = self.publisher.settle(max(0.0, self.stop_at - time.monotonic()))
        self._beat_once()
        self.heart.stop()
        with suppress(StoreError, Fenced):
            self.claimed.lease.release()
        newest = self.head.body.checkpoints
        step = newest[0].step if newest else 0
        late = "" if saved else "; the last one did not fit the grace"
        print(
            f"run {self.run_id} interrupted at step {self.training.at.step}; it goes on from step "
            f"{step}{late}",
            file=sys.stderr,
        )
        return INTERRUPTED

    def _beat_once(self) -> None:
        with suppress(StoreError, UploadFailed):
            self.heart.beat()

    def _finish(self, end: End) -> int:
        """Last checkpoint and events are stored: record the end, in the head first."""
        at = self.training.at
        event = RunFinished(
            reason=end.reason,
            exit_code=end.code,
            gates=self.training.verdict.final(at.epoch),
            steps=at.step,
            epochs=at.epoch,
            seconds=at.seconds,
            error=end.error,
        )
        self.phase = end.reason
        with suppress(NotFinite):  # told already, if so
            self.training.fetch(self._emit)
        self._silence()
        self.journal.emit(event)
        try:
            self.heart.beat()
            if self.records.down_since is not None:
                raise UploadFailed("the store is out of reach")
            head = self.head.body
            result = {"run_id": self.run_id, "spec_hash": head.spec_hash, **fields(event)}
            del result["event"]
            result["checkpoint"] = head.checkpoints[0].folder if head.checkpoints else None
            self.head.write(head.model_copy(update={"finished": result}))
            write_result(self.store, self.run, self.head.body)
            self.claimed.lease.release()
        except (UploadFailed, StoreError) as fault:
            self._keep_locally()
            print(
                f"run {self.run_id}: the end could not be stored: {fault}; everything that is not "
                f"in the store lies in {self.records.spool}",
                file=sys.stderr,
            )
            return FAILED
        return end.code

    def _silence(self) -> None:
        """End the threads beside."""
        self.heart.stop()
        if self.publisher is not None:
            self.publisher.close()

    def _keep_locally(self) -> None:
        """The state, beside the events that wait in the spool."""
        tensors, values = self.training.state()
        snapshot = Snapshot(tensors)
        folder = self.records.spool / "checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        files = snapshot.files()
        for file, data in files.items():
            (folder / file).write_bytes(data)
        digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        manifest = {"files": digests, **self._facts()._asdict(), "values": values}
        (folder / "manifest.json").write_bytes(seal(manifest))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the run after the current step; a second one ends it at once."""

        def stop(number: int, _: object) -> None:
            self.stop_at = time.monotonic() + self.grace
            signal.signal(number, signal.SIG_DFL)

        before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)
