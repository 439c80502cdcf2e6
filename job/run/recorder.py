"""What one attempt writes to the store: events, checkpoints, lease and status."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress

from pydantic import BaseModel

from job.checkpoint.writer import CheckpointInfo, CheckpointWriter
from job.events import Alarm, CheckpointSaved, Epoch
from job.events.log import EventLog, Sink
from job.record.claim import Claim
from job.record.document import Body, Document, Fenced
from job.record.segments import EventUploader, UploadFailed
from job.record.status import Status
from job.run.keepalive import KeepAlive
from job.run.liveness import Liveness
from job.run.store_monitor import StoreMonitor
from job.store import StoreError, Unavailable
from job.train.trainer import Trainer
from job.version import VERSION


class RunRecorder:
    """Writes one attempt's record; its threads work beside the training thread."""

    def __init__(
        self, training: Trainer, claimed: Claim, run_id: str, sinks: Sequence[Sink]
    ) -> None:
        self.training, self.claimed, self.run_id = training, claimed, run_id
        self.store, self.run, self.index = claimed.store, claimed.run, claimed.index
        self.keep = training.spec.checkpoint
        self.offline_seconds = self.keep.offline_minutes * 60
        self.records = EventUploader(
            self.store, self.run, claimed.lease.epoch, self.offline_seconds, self.alarm
        )
        self.journal = EventLog(run_id, [self.records, *sinks], claimed.last_seq + 1)
        self.monitor = StoreMonitor(self.alarm)
        status = Document(self.store, Status.key(self.run), claimed.fenced)
        self.keepalive = KeepAlive(
            claimed.lease, self.records, status, self._status, self._look_at_store
        )
        self.writer: CheckpointWriter | None = None
        """None until training begins."""
        self.phase = "starting"
        self.outcome: Body = {}
        """Exit code and error for the status, once the attempt has ended."""
        self.saved_step = 0
        """Step of the newest snapshot."""
        self._durable_at: float | None = None
        """When the newest durable checkpoint was taken, by the monotonic clock."""
        self._losses: dict[str, float] = {}

    # --- events -----------------------------------------------------------------------------------

    def emit(self, event: BaseModel) -> None:
        """Record one event of training."""
        if isinstance(event, Epoch):
            self._losses = {name: t.train_loss_original for name, t in event.tasks.items()}
            if self._durable_at is not None:
                age = time.monotonic() - self._durable_at
                event = event.model_copy(update={"checkpoint_age": age})
        self.journal.emit(event)

    def alarm(self, kind: str, message: str) -> None:
        """Record an alarm at the step of now."""
        self.journal.emit(Alarm(kind=kind, message=message, step=self.training.at.step))

    def _look_at_store(self) -> None:
        self.monitor.look(self.records.offline(), self.records.outage)

    # --- checkpoints ------------------------------------------------------------------------------

    def start_writer(self, damaged: set[str]) -> None:
        """Start writing checkpoints; damaged: folders that the next publication deletes."""
        tensors, _ = self.training.state()
        self.writer = CheckpointWriter(
            self.store,
            self.run,
            self.index,
            tensors,
            keep=self.keep.keep,
            verify=self.keep.verify,
            offline_seconds=self.offline_seconds,
            store_events=self.store_events,
            report=self._checkpoint_stored,
        )
        self.writer.doomed |= damaged

    def save(self) -> None:
        """Take a snapshot of this step, unless there is one; it is published in another thread."""
        assert self.writer is not None
        step = self.training.at.step
        if step == self.saved_step:
            return
        self.saved_step = step
        tensors, values = self.training.state()
        self.monitor.snapshot_taken(step)
        self.writer.take(tensors, values, self.checkpoint_info())

    def checkpoint_info(self) -> CheckpointInfo:
        """What the manifest of a checkpoint of this step says."""
        at, best_of = self.training.at, self.keep.watched
        score = at.score.get(best_of or "", math.nan) if at.batch == 0 else math.nan
        return CheckpointInfo(
            step=at.step,
            epoch=at.epoch,
            spec_hash=self.training.spec.content_hash(),
            version=VERSION,
            next_seq=self.journal.next_seq,
            score=score if math.isfinite(score) else None,
        )

    def store_events(self) -> None:
        """Store all events so far; raises Unavailable if they have to wait on this machine."""
        self.keepalive.renew()
        if self.records.down_since is not None:
            raise Unavailable("events wait for the store")

    def _checkpoint_stored(self, facts: CheckpointInfo, size: int, seconds: float) -> None:
        """Called in the writer's thread."""
        self._durable_at = time.monotonic() - seconds
        self.monitor.snapshot_stored(facts.step, seconds)
        self.journal.emit(
            CheckpointSaved(step=facts.step, epoch=facts.epoch, size=size, seconds=seconds)
        )

    def durable_step(self) -> int | None:
        """Steps that the newest checkpoint in the store holds."""
        checkpoints = self.index.body.checkpoints
        return checkpoints[0].step if checkpoints else None

    # --- lease, status, threads -------------------------------------------------------------------

    def raise_failure(self) -> None:
        """Raise what ended a thread of the record, if anything did."""
        for beside in (self.keepalive, self.writer):
            if beside is not None and beside.failure is not None:
                raise beside.failure

    def renew_once(self) -> None:
        """Renew and store what can be stored now."""
        with suppress(StoreError, UploadFailed):
            self.keepalive.renew()

    def stop(self) -> None:
        """End the threads."""
        self.keepalive.stop()
        if self.writer is not None:
            self.writer.close()

    def give_back(self) -> None:
        """Release the lease; if that fails, the next process waits until it is stale."""
        with suppress(StoreError, Fenced):
            self.claimed.lease.release()
        self.records.tidy()

    def liveness(self) -> Liveness:
        """For the supervisor."""
        return Liveness(self.phase, self.training.at.step, self.training.evaluated)

    def _status(self) -> Status:
        at, total = self.training.at, self.training.total_steps
        eta = at.seconds / at.step * (total - at.step) if at.step and at.seconds else None
        return Status(
            phase=self.phase,
            step=at.step,
            epoch=at.epoch,
            steps=total,
            progress=at.step / total,
            eta_seconds=eta,
            boots=self.claimed.lease.epoch,
            lease_epoch=self.claimed.lease.epoch,
            losses={k: v if math.isfinite(v) else None for k, v in self._losses.items()},
            checkpoint_step=self.durable_step(),
            **self.outcome,
        )
