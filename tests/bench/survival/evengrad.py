"""`python -m job run`, in this process, its steps watched."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from job.cli.app import main
from job.train.trainer import Trainer
from tests.bench.survival.problem import SPEC
from tests.bench.survival.witness import Witness


def train(folder: Path, every_steps: int | None, witness: Witness) -> None:
    """every_steps: between checkpoints, beside those after every epoch; None: those alone."""
    spec = SPEC | {"checkpoint": {"every_steps": every_steps}}
    (folder / "spec.json").write_text(json.dumps(spec))
    take_step = Trainer._step

    def watched(trainer: Trainer, batch: Any) -> None:
        witness.before(trainer.at.step + 1, batch[0].inputs["features"])
        take_step(trainer, batch)

    setattr(Trainer, "_step", watched)  # noqa: B010 - the rest is the real trainer
    arguments = ["--store", folder / "store", "--run-id", "r", "--json"]
    sys.argv = ["job", *map(str, ["run", folder / "spec.json", *arguments])]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    run = folder / "store" / SPEC["name"] / "r"
    kept = json.loads((run / "result.json").read_text())["checkpoint"]
    stored = safetensors.torch.load_file(run / kept / "model.safetensors")
    weights = {name: x.clone() for name, x in stored.items() if name.startswith("model.")}
    torch.save(weights, folder / "final.pt")
