"""The same in Lightning: its loop, validation, CSV log and checkpoints."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data import Dataset as Samples

from tests.bench.speed.clock import Clock
from tests.bench.speed.problem import DECAY, EPOCHS, EVALUATED, RATE, Problem, Split, read


class Batches(Samples[Any]):
    """A split that is read a batch at a time, which is faster than by sample."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: list[int]) -> tuple[Any, ...]:
        part = self.split.at(torch.tensor(index))
        return (part.x, *part.targets)


class Module(pl.LightningModule):
    """The network with its losses."""

    def __init__(self, problem: Problem, clock: Clock) -> None:
        super().__init__()
        self.problem, self.model, self.clock = problem, problem.model, clock

    def training_step(self, batch: Any, _: int) -> Any:
        x, *targets = batch
        return torch.stack(self.problem.losses(Split(x, targets))).sum()

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.stepped()

    def validation_step(self, batch: Any, _: int) -> None:
        x, *targets = batch
        losses = self.problem.losses(Split(x, targets))
        values = {f"val/{k}": loss for k, loss in enumerate(losses)}
        self.log_dict(values, batch_size=len(x))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), RATE, weight_decay=DECAY, fused=True)


def main(folder: Path, out: Path) -> None:
    """Train in the folder, and write the marks to `out`."""
    warnings.filterwarnings("ignore")
    clock = Clock()
    with clock.borrowing():
        import job.model.built_in
        import job.spec.read  # noqa: F401  # the network's code, which is evengrad's
    problem = read(folder)
    train, held_out = Batches(problem.train), Batches(problem.validation)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder),
        callbacks=[ModelCheckpoint(folder / "checkpoints", save_top_k=-1)],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    random = BatchSampler(RandomSampler(train), problem.batch, drop_last=False)
    in_order = BatchSampler(SequentialSampler(held_out), EVALUATED, drop_last=False)
    trainer.fit(
        Module(problem, clock),
        DataLoader(train, sampler=random, batch_size=None),
        DataLoader(held_out, sampler=in_order, batch_size=None),
    )
    values = [float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")]
    clock.write(out, sum(values) / len(values))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
