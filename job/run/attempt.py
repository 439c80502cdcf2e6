"""One attempt at a run: resume it from its newest checkpoint, train it, and end it."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from job.checkpoint.restore import Restored, restore
from job.distributed.device import device_fault
from job.env import liveness_path
from job.errors import InputError
from job.events import Alarm, Superseded
from job.events.log import Sink
from job.exit_codes import FAILED
from job.record.claim import Claim
from job.record.document import Damaged, Fenced, Vanished
from job.record.segments import UploadFailed
from job.run.ending import End, Ending, verdict
from job.run.liveness import kept_fresh
from job.run.recorder import RunRecorder
from job.run.started import started
from job.store import StoreError
from job.train.ledger import NotFinite
from job.train.trainer import Interrupted, Trainer

PAUSE = 0.2
"""Seconds between two looks whether all is stored."""


def to_stderr(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr)


class RunAttempt:
    """One attempt at a run that this process has claimed.

    An unfinished run goes on from its newest intact checkpoint. grace: seconds that a signal
    leaves for a last checkpoint. resume_command: what a person types to go on; "" if a supervisor
    goes on. notify: prints a line for a person, below anything else that is displayed. extends:
    the state of another run with which this one begins (job.run.extend).
    """

    def __init__(
        self,
        training: Trainer,
        claimed: Claim,
        run_id: str,
        sinks: Sequence[Sink],
        grace: float,
        resume_command: str = "",
        notify: Callable[[str], None] = to_stderr,
        extends: Restored | None = None,
    ) -> None:
        self.training, self.claimed, self.extends = training, claimed, extends
        self.recorder = RunRecorder(training, claimed, run_id, sinks)
        self.ending = Ending(self.recorder, grace, resume_command, notify)

    @property
    def report_url(self) -> str:
        """Where the run's report is; "" until it is stored."""
        return self.ending.report_url

    def execute(self) -> int:
        """Resume and train; returns an exit code once the end is recorded, whatever happens.

        Raises Fenced if another process takes the run over, and StoreError.
        """
        liveness = kept_fresh(liveness_path(os.environ), self.recorder.liveness)
        with self.ending.grace.handling_signals(), liveness:
            try:
                self._begin()
                end = self._train()
            except Interrupted:
                return self.ending.interrupted()
            except Vanished as fault:
                return self.ending.vanished(fault)
            except Fenced:
                self.recorder.stop()
                raise
            except NotFinite as fault:
                end = End("failed", FAILED, str(fault))
            except (UploadFailed, StoreError) as fault:
                end = End("upload_failed", FAILED, str(fault), final=False)
            except (Damaged, InputError) as fault:
                end = End("failed", FAILED, str(fault), final=False)
            except Exception as fault:
                failed = device_fault(fault)
                if failed and liveness_path(os.environ) is not None:
                    return self.ending.device_failed(failed, fault)
                if failed is None:
                    traceback.print_exc()
                error = f"{type(fault).__name__}: {fault}".splitlines()[0]
                # Another start, perhaps on another machine, may do better.
                end = End(failed or "failed", FAILED, error, final=False)
            return self.ending.finished(end)

    def _begin(self) -> None:
        recorder = self.recorder
        recorder.keepalive.start()
        alarms = list(self.claimed.alarms)
        found, damaged = self._restore(alarms)
        step = self.training.at.step
        recorder.journal.emit(started(self.training, step if found else None))
        after = found.manifest.next_seq if found else 1
        last = self.claimed.last_seq
        if after <= last:
            recorder.journal.emit(Superseded(step=step, from_seq=after, to_seq=last))
        for kind, why in alarms:
            recorder.journal.emit(Alarm(kind=kind, message=why, step=step))
        recorder.start_writer(damaged)
        if found is None and step > 0:  # from here on the run needs no other's checkpoint
            recorder.save()
        recorder.phase = "training"

    def _restore(self, alarms: list[tuple[str, str]]) -> tuple[Restored | None, set[str]]:
        """Restore the newest intact checkpoint, on every rank.

        Returns it, None if there is none, and the folders of damaged checkpoints; adds to `alarms`.
        """
        recorder, damaged = self.recorder, set[str]()
        index, before = recorder.index.body, len(alarms)
        found = restore(
            recorder.store,
            recorder.run,
            index,
            lambda _, why: alarms.append(("checkpoint_damaged", why)),
        )
        if found is not None:
            if len(alarms) > before:
                recorder.index.write(index.back_to(found.kept))
                damaged = index.named() - recorder.index.body.named()
            self._load(found)
            recorder.saved_step = found.kept.step
            recorder.monitor.snapshot_stored(found.kept.step, 0.0)
        elif self.extends is not None:
            self._load(self.extends)
        begins = found or self.extends
        self.training.ranks.broadcast((begins.tensors, begins.manifest.values) if begins else None)
        if self._lacks_origin():
            raise Damaged("no checkpoint is left, and its start was not read; start it once more")
        return found, damaged

    def _lacks_origin(self) -> bool:
        """True if the run would begin anew in place of where its spec says."""
        spec = self.training.spec
        wanted = spec.extends is not None or spec.model.start_from is not None
        return wanted and self.training.origin is None

    def _load(self, found: Restored) -> None:
        """Give a checkpoint's state to the trainer.

        Raises Damaged if it is not this trainer's, InputError if the spec's inputs are in another
        order.
        """
        try:
            self.training.restore(found.tensors, found.manifest.values)
        except InputError:  # the spec's, not the checkpoint's
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as fault:
            what = f"{type(fault).__name__}: {fault}".splitlines()[0]
            raise Damaged(f"{found.kept.folder} holds no state of this trainer: {what}") from fault

    def _train(self) -> End:
        recorder = self.recorder
        self.training.run(recorder.emit, recorder.save, self._stopping)
        recorder.phase = "saving"
        self._wait_for_store()
        gates = self.training.verdict.final(self.training.at.epoch)
        undecidable = self.training.undecidable()
        return verdict(all(gate.passed for gate in gates), undecidable)

    def _wait_for_store(self) -> None:
        """Wait until the last checkpoint and all events are stored; raises Interrupted.

        The recorder's threads give up, and raise, when the store is out of reach for too long.
        """
        waiting, records = False, self.recorder.records
        while not self._is_stored():
            if self._stopping():
                raise Interrupted
            if not waiting and records.down_since is not None:
                self.recorder.monitor.waiting()
                waiting = True
            time.sleep(PAUSE)

    def _is_stored(self) -> bool:
        assert self.recorder.writer is not None
        if not self.recorder.writer.settle(PAUSE):
            return False
        self.recorder.keepalive.renew()
        return self.recorder.records.down_since is None

    def _stopping(self) -> bool:
        """True if a signal came; raises what ended a thread of the recorder."""
        self.recorder.raise_failure()
        return self.ending.grace.requested
