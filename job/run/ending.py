"""How an attempt ends: finished, interrupted, device failed, or left unfinished."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from job.checkpoint.snapshot import Snapshot
from job.checkpoint.writer import keep_locally
from job.events import Reason, RunFinished
from job.exit_codes import DEVICE_FAILED, FAILED, GATES_FAILED, INTERRUPTED, PASSED
from job.record.claim import write_result
from job.record.document import Vanished
from job.record.run_index import About
from job.record.segments import UploadFailed
from job.report.save import store_report
from job.run.recorder import RunRecorder
from job.run.signals import Grace
from job.store import StoreError, retry_until
from job.train.ledger import NotFinite


class End(NamedTuple):
    """How training ended."""

    reason: Reason
    code: int
    error: str | None = None
    final: bool = True
    """True if this is the run's end. False if only this process failed, for want of the store or
    of its state: started again, the run goes on."""


def verdict(passed: bool, undecidable: str | None) -> End:
    """The end of a run that trained to its last step.

    undecidable: why its end rests on a loss that is not finite, if it does.
    """
    if undecidable is not None:
        return End("not_finite", FAILED, undecidable)
    return End("succeeded", PASSED) if passed else End("gates_failed", GATES_FAILED)


class Ending:
    """Ends one attempt: stores what is left to store, and returns the process's exit code.

    grace: seconds that a signal leaves. resume_command: what a person types to go on; "" if a
    supervisor goes on. notify: prints a line for a person.
    """

    def __init__(
        self,
        recorder: RunRecorder,
        grace: float,
        resume_command: str,
        notify: Callable[[str], None],
    ) -> None:
        self.recorder, self.resume_command, self.notify = recorder, resume_command, notify
        self.training, self.run_id = recorder.training, recorder.run_id
        self.spool = recorder.records.spool
        self.grace = Grace(grace, INTERRUPTED, self._overrun)
        self.report_url = ""
        """Where the report is, once it is stored."""

    # --- the run goes on later --------------------------------------------------------------------

    def interrupted(self) -> int:
        """A signal came: store a last checkpoint, events and status within the grace."""
        recorder = self.recorder
        recorder.phase = "interrupted"
        self.grace.begin()
        assert recorder.writer is not None
        recorder.save()
        recorder.renew_once()
        saved = recorder.writer.settle(self.grace.seconds_left)
        recorder.renew_once()
        recorder.stop()
        recorder.give_back()
        self._report_interruption("" if saved else "; the last checkpoint did not fit the grace")
        return INTERRUPTED

    def device_failed(self, reason: Reason, fault: Exception) -> int:
        """The device failed: the supervisor goes on in a new process from the last checkpoint."""
        self.recorder.phase = reason
        self.recorder.renew_once()
        self.recorder.stop()
        self.recorder.give_back()
        self._complain(f"{type(fault).__name__}: {fault}".splitlines()[0])
        return DEVICE_FAILED

    def _report_interruption(self, late: str) -> None:
        step, kept = self.training.at.step, self.recorder.durable_step() or 0
        where = f"run {self.run_id} interrupted at step {step}"
        if self.resume_command:
            lost = f", kept up to step {kept}" if kept < step else ""
            self.notify(f"{where}{lost}{late}; to go on: {self.resume_command}")
        else:
            self.notify(f"{where}; it goes on from step {kept}{late}")

    def _overrun(self) -> None:
        """The grace is over; called in another thread, whatever the training thread waits for."""
        records = self.recorder.records
        records.keep()
        lost = f", {records.spool_fault}" if records.spool_fault else ""
        where = f"what is not stored lies in {self.spool}{lost}"
        self._report_interruption(f"; the grace is over, {where}")

    # --- the run has ended ------------------------------------------------------------------------

    def finished(self, end: End) -> int:
        """Record the end: in the run index first, then in result and report."""
        recorder, event = self.recorder, self._finished_event(end)
        recorder.stop()
        recorder.monitor.close()
        recorder.journal.emit(event)
        try:
            if end.final:
                until = time.monotonic() + recorder.offline_seconds
                retry_until(lambda: self._record(event), until)
            else:
                recorder.keepalive.renew()
        except (UploadFailed, StoreError) as fault:
            return self._left(f"its end could not be stored: {fault}")
        recorder.give_back()
        if not end.final:
            return self._left(end.error or end.reason)
        self._store_report()
        return end.code

    def _finished_event(self, end: End) -> RunFinished:
        recorder, at = self.recorder, self.training.at
        recorder.phase = end.reason
        recorder.outcome = {"exit_code": end.code, "error": end.error}
        with suppress(NotFinite, RuntimeError):  # already reported; or the device is gone
            self.training.fetch(recorder.emit)
        return RunFinished(
            reason=end.reason,
            exit_code=end.code,
            gates=self.training.verdict.final(at.epoch),
            worth=at.worth,
            test=at.test,
            control=self.training.spec.control,
            steps=at.step,
            epochs=at.epoch,
            seconds=at.seconds,
            error=end.error,
        )

    def _record(self, event: RunFinished) -> None:
        recorder = self.recorder
        recorder.store_events()
        about = About.of(self.training.spec)
        recorder.index.write(recorder.index.body.ended(self.run_id, event, about))
        write_result(recorder.store, recorder.run, recorder.index.body)

    def _store_report(self) -> None:
        """Store a page for people; the end is stored, and nobody holds the run any more."""
        store, run = self.recorder.store, self.recorder.run
        why = store_report(store, run, lambda: self.grace.requested)
        if why:
            remedy = "`python -m deploy.report` makes one at any time"
            self._complain(f"no report.html, as {why}; {remedy}")
        else:
            self.report_url = f"{store.url}/{run}/report.html"

    # --- left unfinished --------------------------------------------------------------------------

    def vanished(self, fault: Vanished) -> int:
        """The run was removed from the store: keep its state here, and write there no more."""
        spool, records = self.spool, self.recorder.records
        self.recorder.stop()
        with suppress(NotFinite, RuntimeError):  # the device is gone
            self.training.fetch(self.recorder.emit)
        records.keep()
        step, kept = self.training.at.step, self._keep_state()
        try:
            where = str(spool.set_aside(spool.names()))
        except OSError:
            where = str(spool)
        unkept = kept or records.spool_fault
        state = (
            f"its state at step {step} was not kept: {unkept}"
            if unkept
            else (f"its state at step {step} and the events that were not stored lie in {where}")
        )
        self._complain(f"{fault}; {state}; started again, it goes on from what the store still has")
        return FAILED

    def _left(self, why: str) -> int:
        """Keep on this machine what the store lacks, and say where."""
        unkept = None
        if self.training.at.step != self.recorder.durable_step():
            unkept = self._keep_state()
        where = f"; what is not stored lies in {self.spool}; started again, it goes on"
        if unkept is not None:
            where = f"; the state was not kept: {unkept}; started again, it goes on"
        self._complain(f"{why}{where if unkept or not self._is_spool_empty() else ''}")
        return FAILED

    def _is_spool_empty(self) -> bool:
        with suppress(OSError):
            return not self.spool.names()
        return True

    def _keep_state(self) -> str | None:
        """Write the state to the spool, beside the waiting events; returns why that failed."""
        recorder = self.recorder
        if recorder.writer is None:
            return None
        tensors, values = self.training.state()
        snapshot = Snapshot(tensors)
        snapshot.values = values
        info, epoch = recorder.checkpoint_info(), recorder.index.body.epoch
        try:
            keep_locally(self.spool, snapshot, info, epoch)
        except OSError as error:
            return f"{self.spool} cannot be written: {error.strerror or error}"
        return None

    def _complain(self, text: str) -> None:
        print(f"run {self.run_id}: {text}", file=sys.stderr)
