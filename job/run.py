"""A run in its store: taken, resumed where it was cut off, trained, judged, given back."""

from __future__ import annotations

import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from pydantic import BaseModel

from job.checkpoint import Facts, Publisher, Restored, manifest, restore
from job.claim import Claim, write_result
from job.device import device_fault
from job.document import Body, Damaged, Document, Fenced
from job.events import (
    Alarm,
    CheckpointSaved,
    Epoch,
    Reason,
    RunFinished,
    Superseded,
)
from job.facts import started
from job.grace import Grace
from job.heart import Heart
from job.heartbeat import Beat, beating, path_of
from job.journal import Journal, Sink
from job.ledger import NotFinite
from job.records import Records, UploadFailed
from job.report_stored import store_report
from job.snapshot import Snapshot
from job.store import StoreError, Unavailable, patiently
from job.train import Interrupted, Training
from job.version import VERSION

PASSED, FAILED, GATES_FAILED, DEVICE_FAILED, INTERRUPTED = 0, 1, 6, 71, 75
"""Exit codes. DEVICE_FAILED: only to a supervisor, which starts the trainer again."""


class End(NamedTuple):
    """How a run ended."""

    reason: Reason
    code: int
    error: str | None = None
    final: bool = True
    """Whether it decides the run. What kept this process from the store or from the state does
    not: started again, the run goes on."""


def to_stderr(text: str) -> None:
    """A line."""
    print(text, file=sys.stderr)


class Run:
    """One attempt at the run that was claimed.

    An unfinished run goes on from its newest intact checkpoint. grace: seconds that a signal
    leaves for a last checkpoint. again: the command that goes on with it; "" where a supervisor
    does. say: tells a person what became of it, once nothing more is shown.
    """

    def __init__(
        self,
        training: Training,
        claimed: Claim,
        run_id: str,
        sinks: Sequence[Sink],
        grace: float,
        again: str = "",
        say: Callable[[str], None] = to_stderr,
    ) -> None:
        self.again, self.say = again, say
        self.training, self.claimed, self.run_id = training, claimed, run_id
        self.grace = Grace(grace, INTERRUPTED, self._too_late)
        self.store, self.run, self.head = claimed.store, claimed.run, claimed.head
        self.keep = training.spec.checkpoint
        self.offline_seconds = self.keep.offline_minutes * 60
        self.records = Records(self.store, self.run, claimed.lease.epoch, self.offline_seconds)
        self.spool = self.records.spool
        self.journal = Journal(run_id, [self.records, *sinks], claimed.last_seq + 1)
        status = Document(self.store, f"{self.run}/status.json", claimed.fenced)
        self.heart = Heart(claimed.lease, self.records, status, self._status)
        self.publisher: Publisher | None = None
        self.durable_at: float | None = None
        """When the newest durable checkpoint was taken."""
        self.report = ""
        """Where its page is, once it is stored."""
        self.phase = "starting"
        self.end: End | None = None
        self.losses: dict[str, float] = {}
        self.damaged: set[str] = set()
        """Folders of checkpoints."""
        self.saved_step = 0
        """Of the newest snapshot."""

    def execute(self) -> int:
        """Restore and train; turn every way to end into a recorded end and an exit code.

        Raises Fenced where another process has taken the run over, and StoreError.
        """
        with self.grace.heeded(), beating(path_of(os.environ), self._sign):
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
            except (UploadFailed, StoreError) as fault:
                end = End("upload_failed", FAILED, str(fault), final=False)
            except Damaged as fault:
                end = End("failed", FAILED, str(fault), final=False)
            except Exception as fault:
                failed = device_fault(fault)
                if failed and path_of(os.environ) is not None:
                    return self._device_failed(failed, fault)
                if failed is None:
                    traceback.print_exc()
                error = f"{type(fault).__name__}: {fault}".splitlines()[0]
                # Another start, perhaps on another machine, may do better.
                end = End(failed or "failed", FAILED, error, final=False)
            return self._finish(end)

    def _begin(self) -> None:
        self.heart.start()
        alarms = list(self.claimed.alarms)
        found = self._restore(alarms)
        step = self.training.at.step
        self.journal.emit(started(self.training, step if found else None))
        after = found.manifest["next_seq"] if found else 1
        if after <= self.claimed.last_seq:
            self.journal.emit(Superseded(step=step, from_seq=after, to_seq=self.claimed.last_seq))
        for kind, why in alarms:
            self.journal.emit(Alarm(kind=kind, message=why, step=step))
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
        self.publisher.doomed |= self.damaged
        self.phase = "training"

    def _restore(self, alarms: list[tuple[str, str]]) -> Restored | None:
        head, before = self.head.body, len(alarms)
        found = restore(
            self.store, self.run, head, lambda _, why: alarms.append(("checkpoint_damaged", why))
        )
        if found is not None:
            if len(alarms) > before:
                self.head.write(head.back_to(found.kept))
                self.damaged = head.named() - self.head.body.named()
            self.training.restore(found.tensors, found.manifest["values"])
            self.saved_step = found.kept.step
        state = (found.tensors, found.manifest["values"]) if found is not None else None
        self.training.ranks.broadcast(state)
        return found

    def _train(self) -> End:
        assert self.publisher is not None
        self.training.run(self._emit, self._save, self._stopping)
        self.phase = "saving"
        while not self.publisher.settle(0.2):
            if self._stopping():
                raise Interrupted
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
            time.sleep(0.2)
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
        return self.grace.asked

    def _facts(self) -> Facts:
        at, best_of = self.training.at, self.keep.best_of
        scored = best_of is not None and at.batch == 0 and math.isfinite(at.score[best_of])
        return Facts(
            step=at.step,
            epoch=at.epoch,
            spec_hash=self.training.spec.content_hash(),
            version=VERSION,
            next_seq=self.journal.next_seq,
            score=at.score[best_of] if best_of is not None and scored else None,
        )

    def _save(self) -> None:
        assert self.publisher is not None
        if self.training.at.step == self.saved_step:
            return
        self.saved_step = self.training.at.step
        tensors, values = self.training.state()
        self.publisher.take(tensors, values, self._facts())

    def _store_events(self) -> None:
        """Called on the publisher's thread; raises Unavailable where events wait locally."""
        self.heart.beat()
        if self.records.down_since is not None:
            raise Unavailable("events wait for the store")

    def _saved(self, facts: Facts, size: int, seconds: float) -> None:
        """Called on the publisher's thread."""
        self.durable_at = time.monotonic() - seconds
        self.journal.emit(
            CheckpointSaved(step=facts.step, epoch=facts.epoch, size=size, seconds=seconds)
        )

    def _durable_step(self) -> int | None:
        """Steps that the newest checkpoint in the store holds."""
        return self.head.body.checkpoints[0].step if self.head.body.checkpoints else None

    def _sign(self) -> Beat:
        """Of life, for a supervisor."""
        return Beat(self.phase, self.training.at.step, self.training.evaluated)

    def _status(self) -> Body:
        at, total = self.training.at, self.training.total_steps
        end = {"exit_code": self.end.code, "error": self.end.error} if self.end else {}
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
            "checkpoint_step": self._durable_step(),
            **end,
        }

    # --- the ends -------------------------------------------------------------------------------

    def _interrupted(self) -> int:
        """A last checkpoint if the grace suffices, events and status; all within the grace."""
        self.phase = "interrupted"
        self.grace.begin()
        assert self.publisher is not None
        self._save()
        self._beat_once()
        saved = self.publisher.settle(self.grace.left)
        self._beat_once()
        self._silence()
        self._give_back()
        self._tell_interruption("" if saved else "; the last checkpoint did not fit the grace")
        return INTERRUPTED

    def _tell_interruption(self, late: str) -> None:
        step, kept = self.training.at.step, self._durable_step() or 0
        told = f"run {self.run_id} interrupted at step {step}"
        if self.again:
            lost = f", kept up to step {kept}" if kept < step else ""
            self.say(f"{told}{lost}{late}; to go on: {self.again}")
        else:
            self.say(f"{told}; it goes on from step {kept}{late}")

    def _too_late(self) -> None:
        """Called beside the training thread: the grace is over, whatever that thread waits for."""
        with suppress(UploadFailed):
            self.records.keep()
        self._tell_interruption(f"; the grace is over, what is not stored lies in {self.spool}")

    def _device_failed(self, reason: Reason, fault: Exception) -> int:
        """Leave it to the supervisor to go on from the newest checkpoint with a new process."""
        self.phase = reason
        self._beat_once()
        self._silence()
        self._give_back()
        print(
            f"run {self.run_id}: {type(fault).__name__}: {fault}".splitlines()[0], file=sys.stderr
        )
        return DEVICE_FAILED

    def _beat_once(self) -> None:
        with suppress(StoreError, UploadFailed):
            self.heart.beat()

    def _finish(self, end: End) -> int:
        """Last checkpoint and events are stored: record the end, in the head first."""
        at = self.training.at
        self.phase, self.end = end.reason, end
        with suppress(NotFinite, RuntimeError):  # told already; or the device is gone
            self.training.fetch(self._emit)
        event = RunFinished(
            reason=end.reason,
            exit_code=end.code,
            gates=self.training.verdict.final(at.epoch),
            steps=at.step,
            epochs=at.epoch,
            seconds=at.seconds,
            error=end.error,
        )
        self._silence()
        self.journal.emit(event)
        try:
            if end.final:
                patiently(lambda: self._record(event), time.monotonic() + self.offline_seconds)
            else:
                self.heart.beat()
        except (UploadFailed, StoreError) as fault:
            return self._leave(f"its end could not be stored: {fault}")
        self._give_back()
        if not end.final:
            return self._leave(end.error or end.reason)
        self._report()
        return end.code

    def _report(self) -> None:
        """A page for people, now that the end is stored and the run is nobody's any more."""
        why = store_report(self.store, self.run, lambda: self.grace.asked)
        if why:
            remedy = "`python -m deploy.report` makes one at any time"
            print(f"run {self.run_id}: no report.html, as {why}; {remedy}", file=sys.stderr)
        else:
            self.report = f"{self.store.url}/{self.run}/report.html"

    def _give_back(self) -> None:
        with suppress(StoreError, Fenced):  # or it has to be waited for
            self.claimed.lease.release()
        self.records.tidy()

    def _leave(self, why: str) -> int:
        """Keep what the store has not got, and say where."""
        self._keep_locally()
        left = any(path.is_file() for path in self.spool.rglob("*"))
        where = f"; what is not stored lies in {self.spool}; started again, it goes on"
        print(f"run {self.run_id}: {why}{where if left else ''}", file=sys.stderr)
        return FAILED

    def _record(self, event: RunFinished) -> None:
        self._store_events()
        self.head.write(self.head.body.ended(self.run_id, event))
        write_result(self.store, self.run, self.head.body)

    def _silence(self) -> None:
        """End the threads beside."""
        self.heart.stop()
        if self.publisher is not None:
            self.publisher.close()

    def _keep_locally(self) -> None:
        """The state, beside the events that wait in the spool."""
        if self.publisher is None or self.training.at.step == self._durable_step():
            return
        tensors, values = self.training.state()
        snapshot = Snapshot(tensors)
        folder = self.spool / "checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        snapshot.values = values
        for file, data in snapshot.files().items():
            (folder / file).write_bytes(data)
        sealed = manifest(snapshot, self._facts(), self.head.body.epoch)
        (folder / "manifest.json").write_bytes(sealed)
