"""In a training's process: notes each step, and ends the process where the campaign says so."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from tests.bench.survival.problem import arrays

PACE = 0.05
"""Seconds that a step waits, so that it is as long, beside a checkpoint that is written meanwhile,
as in a job that is worth keeping. It takes no CPU time."""
VARIABLE = "SURVIVAL_ORDERS"
"""Holds an attempt's Orders as JSON."""


class Orders(NamedTuple):
    """What the campaign wants of one attempt."""

    log: str
    """File of the steps that it takes, one JSON line each: number from 1, and rows of its batch."""
    after: int | None = None
    """Steps of this attempt after which it is killed."""
    writing: int | None = None
    """Step before which the next checkpoint is doomed: it is killed in the midst of writing it."""
    size: int = 0
    """Bytes that a file of that checkpoint reaches."""


class Witness:
    """Watches one attempt. folder: of the problem's data."""

    def __init__(self, folder: Path) -> None:
        self.orders = Orders(**json.loads(os.environ[VARIABLE]))
        first = arrays(folder)[0][:, 0, 0].tolist()
        self.rows = {value: row for row, value in enumerate(first)}
        self.taken = 0

    def before(self, step: int, x: Tensor) -> None:
        """Call before each step, with its number and the features [B, T, F] of its batch."""
        if self.taken == self.orders.after:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.orders.writing:
            die_while_writing(self.orders.size)
        self.taken += 1
        time.sleep(PACE)
        with open(self.orders.log, "a") as file:
            file.write(json.dumps([step, [self.rows[v] for v in x[:, 0, 0].tolist()]]) + "\n")


def die_while_writing(size: int) -> None:
    """From now on the kernel ends this process when a file is to grow beyond so many bytes.

    The bytes up to there are written. The signal is SIGXFSZ, as sudden as SIGKILL.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
