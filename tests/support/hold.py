"""A trainer that waits before a step, so that a test acts while it certainly trains."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from tests.support.warm_process import Process, until


class Hold:
    """Both sides of it: the trainer waits at `place`, the test releases it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.reached, self.released = place / "reached", place / "released"

    def is_reached(self) -> bool:
        """True once the trainer waits, or has waited."""
        return self.reached.exists()

    def until_reached(self) -> None:
        """Wait until the trainer waits."""
        until(self.is_reached, say=lambda: f"{self.reached} is not reached")

    def release(self) -> None:
        """Let every trainer go on, those that come later too."""
        self.released.touch()

    def interrupt(self, trainer: Process, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal the trainer that waits, and let it go on once it has taken the signal."""
        until(
            lambda: self.is_reached() or trainer.code is not None,
            say=lambda: f"{trainer.out[-2000:]}\n{trainer.err}",
        )
        trainer.signal(number)
        until(lambda: trainer.code is not None or not handles(trainer.pid, number))
        self.release()


def handles(pid: int, number: signal.Signals) -> bool:
    """True while a process has a handler for a signal; a run drops it at the first signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def install(place: str, step: int) -> None:
    """In the trainer's process: wait after this step, before the next one, until released."""
    from job.train.trainer import Trainer

    hold, take_step = Hold(Path(place)), Trainer._step

    def held(trainer: Trainer, *arguments: Any) -> None:
        if trainer.at.step == step and not hold.released.exists():
            hold.reached.touch()
            while not hold.released.exists():
                time.sleep(0.005)
        take_step(trainer, *arguments)

    setattr(Trainer, "_step", held)  # noqa: B010 - the rest is the real trainer
