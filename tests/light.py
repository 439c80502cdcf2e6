"""A container whose supervisor is the real one and whose trainer is light: it loads no torch.

`python -m tests.light` is PID 1; with arguments, its trainer, which takes the run, beats, tells
events and ends it as the real one does, and meanwhile takes a step of nothing for each epoch of the
spec. It notes each beside the pods' folders, in the run's file of steps: its lease epoch, a line.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.runpod_process import PodFolder, Process

SECONDS = 0.05
"""Of a step."""


def container(folder: PodFolder, environment: dict[str, str]) -> Process:
    """Start such a container: a factory for the simulator."""
    from tests.runpod_process import Local

    notes = folder.disk.parents[1] / f"steps-{environment['RUN_ID']}"
    noting = environment | {"LIGHT_STEPS": str(notes)}
    return Local([sys.executable, "-m", "tests.light"], folder, noting)


def supervise() -> int:
    """PID 1: the real supervisor, which starts this file as its trainer."""
    from job import supervisor
    from job.supervise import main

    def command(self: supervisor.Supervisor, *_: object) -> list[str]:
        return [sys.executable, "-m", "tests.light", self.store, self.run_id, str(self.spec)]

    supervisor.Supervisor._command = command  # type: ignore[method-assign, assignment]  # the rest is real
    return main()


def train(store: str, run_id: str, spec_path: str) -> int:
    """The trainer; returns its exit code."""
    from job.claim import Finished, claim
    from job.document import Fenced
    from job.lease import Held
    from job.read_spec import read_spec
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
        from job.claim import Claim
        from job.document import Document
        from job.heart import Heart
        from job.journal import Journal, print_line
        from job.records import Records

        assert isinstance(claimed, Claim)
        self.claimed, self.run_id, self.step, self.steps = claimed, run_id, 0, steps
        self.phase, self.told = "training", list[int]()
        records = Records(claimed.store, claimed.run, claimed.lease.epoch, 60.0)
        self.journal = Journal(run_id, [records, print_line], claimed.last_seq + 1)
        status = Document(claimed.store, f"{claimed.run}/status.json")
        self.heart = Heart(claimed.lease, records, status, self._status)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self.told.append(number))

    def _status(self) -> dict[str, object]:
        return {
            "phase": self.phase,
            "step": self.step,
            "epoch": 0,
            "steps": self.steps,
            "losses": {},
        }

    def run(self) -> int:
        from job.claim import write_result
        from job.document import Fenced
        from job.events import Alarm, RunFinished
        from job.heartbeat import Beat, beating, path_of
        from job.store import StoreError

        self.heart.start()
        try:
            with beating(path_of(os.environ), lambda: Beat(self.phase, self.step)):
                while self.step < self.steps and not self.told:
                    if self.heart.failure is not None:
                        raise self.heart.failure
                    self._note()
                    time.sleep(SECONDS)
                self.heart.stop()
                if self.told:
                    self.phase = "interrupted"
                    self.heart.beat()
                    self.claimed.lease.release()
                    return 75
                self.phase = "succeeded"
                self.journal.emit(Alarm(kind="light", message="no network here", step=self.steps))
                facts = {"gates": [], "steps": self.steps, "epochs": 0, "seconds": 0.0}
                end = RunFinished(reason="succeeded", exit_code=0, **facts)
                self.journal.emit(end)
                self.heart.beat()
                head = self.claimed.head
                head.write(head.body.ended(self.run_id, end))
                write_result(self.claimed.store, self.claimed.run, head.body)
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
