"""A rank beyond the first: it computes its share, and leaves all else to rank 0.

It has no store and prints no event. It restores what rank 0 found, stops where any rank is asked
to, halts where all do, and ends with rank 0's exit code.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from job.grace import SIGNALS
from job.heartbeat import Beat, beating, path_of
from job.last_word import FOREVER, heard
from job.ledger import NotFinite
from job.ranks import Lost
from job.train import Interrupted, Training


def follow(training: Training) -> int:
    """Train along with rank 0; returns its exit code. Raises Lost where it ended without one.

    The first rank of a machine without rank 0 gives that machine's supervisor its sign of life.
    """
    asked: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: asked.append(number))
    phase = "starting"

    def sign() -> Beat:
        return Beat(phase, training.at.step, training.evaluated)

    with beating(path_of(os.environ) if training.ranks.local == 0 else None, sign):
        if (state := training.ranks.broadcast()) is not None:
            training.restore(*state)
        phase = "training"
        with suppress(Interrupted, NotFinite):  # rank 0 meets them too, and tells
            training.run(lambda _: None, lambda: None, lambda: bool(asked))
        phase = "saving"
        for number in SIGNALS:  # nothing here is lost by one
            signal.signal(number, signal.SIG_DFL)
        code = heard(os.environ, FOREVER)
    if code is None:
        raise Lost("rank 0 ended without a word")
    return code
