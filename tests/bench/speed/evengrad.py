"""`python -m job run` with all that it does, and marks at its first step and its end."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tests.bench.speed.clock import Clock


def main(folder: Path, out: Path) -> None:
    """Run the spec of the folder as the command does, and write the marks to `out`."""
    clock = Clock()
    from job.cli.app import main as command

    events = folder / "events.jsonl"
    _mark(clock, events, out)
    with events.open("w") as lines, redirect_stdout(lines):
        command(["run", str(folder / "spec.json"), "--store", str(folder / "runs"), "--json"])


def _mark(clock: Clock, events: Path, out: Path) -> None:
    """Make the trainer note its first step, and write the marks when its last epoch is over."""
    from job.train.trainer import Trainer

    step, run = Trainer._step, Trainer.run

    def noted_step(self: Trainer, batch: Any) -> None:
        step(self, batch)
        clock.stepped()

    def noted_run(self: Trainer, *arguments: Any) -> None:
        run(self, *arguments)
        clock.write(out, _last_loss(events))

    Trainer._step = noted_step  # type: ignore[method-assign]
    Trainer.run = noted_run  # type: ignore[method-assign, assignment]


def _last_loss(events: Path) -> float:
    sys.stdout.flush()
    lines = map(json.loads, events.read_text().splitlines())
    last = [line for line in lines if line["event"] == "epoch"][-1]
    losses = [task["val_loss"] for task in last["tasks"].values()]
    return float(sum(losses) / len(losses))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
