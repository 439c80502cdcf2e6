"""A rank beyond the first: it computes its share of each batch and leaves the rest to rank 0.

It has no store and prints no event. It restores what rank 0 restored, stops when any rank is asked
to, and exits with rank 0's exit code.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from job.distributed.ranks import Lost
from job.env import liveness_path
from job.run.exit_relay import FOREVER, await_code
from job.run.liveness import Liveness, kept_fresh
from job.run.signals import SIGNALS
from job.train.ledger import NotFinite
from job.train.trainer import Interrupted, Trainer


def train_along(training: Trainer) -> int:
    """Train along with rank 0; returns its exit code. Raises Lost if it ended without one.

    On a machine without rank 0, the first rank writes the liveness file for the supervisor there.
    """
    received: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: received.append(number))
    phase = "starting"

    def liveness() -> Liveness:
        return Liveness(phase, training.at.step, training.evaluated)

    path = liveness_path(os.environ) if training.ranks.local == 0 else None
    with kept_fresh(path, liveness):
        if (state := training.ranks.broadcast()) is not None:
            training.restore(*state)
        phase = "training"
        with suppress(Interrupted, NotFinite):  # rank 0 meets them too, and reports them
            training.run(lambda _: None, lambda: None, lambda: bool(received))
        phase = "saving"
        for number in SIGNALS:  # from here on a signal loses nothing
            signal.signal(number, signal.SIG_DFL)
        code = await_code(os.environ, FOREVER)
    if code is None:
        raise Lost("rank 0 ended without an exit code")
    return code
