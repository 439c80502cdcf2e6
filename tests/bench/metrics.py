"""What the metrics cost in the smoke job, and beside torchmetrics' own.

`python -m tests.bench.metrics`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from pydantic import BaseModel
from torchmetrics.functional import classification as by

from job.data.dataset import load
from job.events import Epoch
from job.model import metrics
from job.spec.read import read_spec
from job.train.evaluate import evaluate
from job.train.trainer import Trainer
from tests.support.command import ROOT

ROUNDS = 9


def main() -> None:
    """Print medians of processor time, which the other work of a machine does not lengthen."""
    path = ROOT / "docker" / "smoke.json"
    spec = read_spec(path)
    spec = spec.model_copy(update={"train": spec.train.model_copy(update={"epochs": 3})})
    training = Trainer(spec, load(spec, path.parent))
    model, losses, device = training.stepper.model, training.losses, training.device
    ends: list[float] = []

    def emit(event: BaseModel) -> None:
        if isinstance(event, Epoch):
            ends.append(time.process_time())

    def evaluated(asked: bool) -> Callable[[], Any]:
        data = training.data
        return lambda: [
            evaluate(model, losses, split, device, metrics=asked)
            for split in (data.train, data.validation)
        ]

    training.run(emit, lambda: None, lambda: False)
    epoch = median(after - before for before, after in pairwise(ends))
    without, beside = paired(evaluated(False), evaluated(True))
    print("| | s of one core |\n|---|---|")
    print(f"| epoch, all included | {epoch:.3f} |")
    print(f"| evaluation without metrics | {without:.3f} |")
    print(f"| with metrics | {beside:.3f} |")
    print(f"| metrics, share of the epoch | {(beside - without) / epoch:.1%} |")

    print("\n| of 400 000 0/1 outputs | ms here | ms by torchmetrics |\n|---|---|---|")
    for name, here, there in by_name():
        print(f"| {name} | {1000 * here:.1f} | {1000 * there:.1f} |")


def by_name() -> Iterator[tuple[str, float, float]]:
    """Median seconds of what is computed here, and of the same by torchmetrics."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(400_000, generator=draw)
    ones = torch.rand(400_000, generator=draw) < logits.sigmoid()
    p, y, double = logits.sigmoid(), ones.int(), logits.sigmoid().double()

    def ranked() -> None:
        by.binary_auroc(p, y, validate_args=False)
        by.binary_average_precision(p, y, validate_args=False)

    def binned() -> None:
        by.binary_auroc(p, y, thresholds=200, validate_args=False)
        by.binary_average_precision(p, y, thresholds=200, validate_args=False)

    def error() -> None:
        by.binary_calibration_error(double, y, n_bins=metrics.BINS, validate_args=False)

    yield "AUROC and average precision", *paired(lambda: metrics.ranking(p, ones), ranked)
    yield "both, in 200 bins there", *paired(lambda: metrics.ranking(p, ones), binned)
    yield "calibration error", *paired(lambda: metrics.calibration_error(p, ones), error)


def paired(one: Callable[[], Any], other: Callable[[], Any]) -> tuple[float, float]:
    """Median seconds of both, taken in turn."""
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        one()
        between = time.process_time()
        other()
        times.append((between - begun, time.process_time() - between))
    return median(a for a, _ in times), median(b for _, b in times)


if __name__ == "__main__":
    main()
