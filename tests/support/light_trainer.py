"""A container with the real supervisor and a light trainer, which loads no torch.

`python -m tests.support.light_trainer` is PID 1; with arguments it is the trainer, which claims the
run, renews, writes events and ends the run as the real one does. Between, it takes one empty step
for each epoch of the spec, and notes each beside the pods' folders, as a line with its lease epoch.
While there is a file `hold` beside them it takes no further step.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from job.record.status import Status
    from tests.runpod.process import PodFolder, Process

SECONDS = 0.05
"""Duration of a step."""


def container(folder: PodFolder, environment: dict[str, str]) -> Process:
    """Start such a container: a factory for the simulator."""
    from tests.runpod.process import Local

    notes = folder.disk.parents[1] / f"steps-{environment['RUN_ID']}"
    hold = folder.disk.parents[1] / "hold"
    noting = environment | {"LIGHT_STEPS": str(notes), "LIGHT_HOLD": str(hold)}
    return Local([sys.executable, "-m", "tests.support.light_trainer"], folder, noting)


def supervise() -> int:
    """PID 1: the real supervisor, which starts this file as its trainer."""
    from job.supervise import supervisor
    from job.supervise.__main__ import main

    def command(self: supervisor.Supervisor, *_: object) -> list[str]:
        return [
            sys.executable,
            "-m",
            "tests.support.light_trainer",
            self.store,
            self.run_id,
            str(self.spec),
        ]

    supervisor.Supervisor._command = command  # type: ignore[method-assign, assignment]  # the rest is real
    return main()


def train(store: str, run_id: str, spec_path: str) -> int:
    """The trainer; returns its exit code."""
    from job.record.claim import Finished, claim
    from job.record.document import Fenced
    from job.record.lease import Held
    from job.spec.read import read_spec
    from job.store import StoreError, open_store

    spec, where = read_spec(Path(spec_path)), open_store(store)
    try:
        claimed = claim(where, spec, f"{spec.name}/{run_id}", take_over=False, must_exist=False)
    except Finished as finished:
        return finished.code
    except (Held, Fenced, StoreError) as refusal:
        print(refusal, file=sys.stderr)
        return 1
    return _Training(claimed, run_id, spec.train.epochs).run()


class _Training:
    def __init__(self, claimed: object, run_id: str, steps: int) -> None:
        from job.events.log import EventLog, print_line
        from job.record.claim import Claim
        from job.record.document import Document
        from job.record.segments import EventUploader
        from job.run.keepalive import KeepAlive

        assert isinstance(claimed, Claim)
        self.claimed, self.run_id, self.step, self.steps = claimed, run_id, 0, steps
        self.phase, self.signals = "training", list[int]()
        records = EventUploader(claimed.store, claimed.run, claimed.lease.epoch, 60.0)
        self.journal = EventLog(run_id, [records, print_line], claimed.last_seq + 1)
        status = Document(claimed.store, f"{claimed.run}/status.json")
        self.keepalive = KeepAlive(claimed.lease, records, status, self._status)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self.signals.append(number))

    def _status(self) -> Status:
        from job.record.status import Status

        return Status(phase=self.phase, step=self.step, epoch=0, steps=self.steps, losses={})

    def run(self) -> int:
        from job.env import liveness_path
        from job.events import Alarm, RunFinished
        from job.record.claim import write_result
        from job.record.document import Fenced
        from job.run.liveness import Liveness, kept_fresh
        from job.store import StoreError

        self.keepalive.start()
        try:
            with kept_fresh(liveness_path(os.environ), lambda: Liveness(self.phase, self.step)):
                while self.step < self.steps and not self.signals:
                    if self.keepalive.failure is not None:
                        raise self.keepalive.failure
                    self._note()
                    time.sleep(SECONDS)
                    while Path(os.environ["LIGHT_HOLD"]).exists() and not self.signals:
                        time.sleep(SECONDS)
                self.keepalive.stop()
                if self.signals:
                    self.phase = "interrupted"
                    self.keepalive.renew()
                    self.claimed.lease.release()
                    return 75
                self.phase = "succeeded"
                self.journal.emit(Alarm(kind="light", message="no network here", step=self.steps))
                facts = {"gates": [], "steps": self.steps, "epochs": 0, "seconds": 0.0}
                end = RunFinished(reason="succeeded", exit_code=0, **facts)
                self.journal.emit(end)
                self.keepalive.renew()
                index = self.claimed.index
                index.write(index.body.ended(self.run_id, end))
                write_result(self.claimed.store, self.claimed.run, index.body)
                self.claimed.lease.release()
        except (Fenced, StoreError) as fault:
            print(fault, file=sys.stderr)
            return 1
        return 0

    def _note(self) -> None:
        self.step += 1
        with Path(os.environ["LIGHT_STEPS"]).open("a") as file:
            file.write(f"{self.claimed.lease.epoch}\n")


if __name__ == "__main__":
    sys.exit(train(*sys.argv[1:]) if len(sys.argv) > 1 else supervise())
