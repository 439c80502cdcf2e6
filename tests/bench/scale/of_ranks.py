"""Samples per second of two processes beside one."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from job.distributed.ranks import ALONE, Ranks
from job.train.trainer import Interrupted, Trainer
from tests.bench.scale.cost import Costs
from tests.bench.scale.jobs import loaded
from tests.support.two_ranks import Pair, pair

WARM_UP, TAKEN = 5, 30
BATCHES = (32, 128, 512)
MODEL = {"kind": "lstm", "hidden": 64}


def efficiency(folder: Path, rounds: int) -> list[tuple[int, Costs]]:
    """By batch size, samples per second of one rank and of two, in turns."""
    found = []
    with pair() as two:
        for batch in BATCHES:
            one, both = [], []
            for _ in range(rounds):
                one.append(rate(ALONE, folder, batch))
                both.append(_slower(two, folder, batch))
            medians = {"one": statistics.median(one), "two": statistics.median(both)}
            found.append((batch, medians))
    return found


def _slower(two: Pair, folder: Path, batch: int) -> float:
    rates: list[float] = two.both(rate, folder, batch)
    return min(rates)


def rate(ranks: Ranks, folder: Path, batch: int) -> float:
    """Samples per second of training steps, of all ranks together, by the clock on the wall."""
    samples = 2 * batch * (WARM_UP + TAKEN + 1)
    sizes: dict[str, Any] = {"samples": samples, "steps": 32, "model": MODEL, "batch": batch}
    training = Trainer(*loaded(folder, **sizes), ranks)
    at: list[float] = []

    def stopping() -> bool:
        at.append(time.perf_counter())
        return len(at) == 1 + WARM_UP + TAKEN

    with suppress(Interrupted):
        training.run(lambda _: None, lambda: None, stopping)
    return batch * TAKEN / (at[-1] - at[WARM_UP])
