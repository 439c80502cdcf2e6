"""PyTorch Lightning with its ModelCheckpoint, resumed by ckpt_path="last"."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from tests.bench.survival.problem import BATCH, EPOCHS, LR, SEED, dataset, loss_of, network
from tests.bench.survival.witness import Witness


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), LR)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return loss_of(self.model, *batch)


class Watched(Callback):
    """Hands each step to the witness before it is taken."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.witness.before(trainer.global_step + 1, batch[0])


def train(folder: Path, every_steps: int | None, witness: Witness) -> None:
    """every_steps: between checkpoints; None: one after every epoch."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    pl.seed_everything(SEED, verbose=False)
    often: dict[str, Any] = {"every_n_epochs": 1}
    if every_steps is not None:
        often = {"every_n_train_steps": every_steps}
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(folder / "checkpoints", save_last=True, **often),
            Watched(witness),
        ],
    )
    module = Module()
    trainer.fit(module, DataLoader(dataset(folder), BATCH, shuffle=True), ckpt_path="last")
    torch.save(module.model.state_dict(), folder / "final.pt")
