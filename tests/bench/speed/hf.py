"""The same with the Trainer of Hugging Face's transformers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.bench.speed.clock import Clock
from tests.bench.speed.problem import DECAY, EPOCHS, EVALUATED, RATE, Problem, Split, read


class Model(nn.Module):
    """The network with its losses, as the Trainer wants one."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem, self.model = problem, problem.model

    def forward(self, x: Tensor, **targets: Tensor) -> dict[str, Tensor]:
        return {"loss": torch.stack(self.problem.losses(Split(x, list(targets.values())))).sum()}


class Batches(torch.utils.data.Dataset[Any]):
    """A split that is read a batch at a time, which is faster than by sample."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])

    def __getitems__(self, index: list[int]) -> Any:
        part = self.split.at(torch.tensor(index))
        return {"x": part.x} | {f"y{k}": y for k, y in enumerate(part.targets)}


def main(folder: Path, out: Path) -> None:
    """Train in the folder, and write the marks to `out`."""
    transformers: Any = importlib.import_module("transformers")
    clock = Clock()
    with clock.borrowing():
        import job.model.built_in
        import job.spec.read  # noqa: F401  # the network's code, which is evengrad's
    problem = read(folder)

    class Steps(transformers.TrainerCallback):  # type: ignore[misc]  # of type Any
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.stepped()

    trainer = transformers.Trainer(
        model=Model(problem),
        args=transformers.TrainingArguments(
            str(folder / "checkpoints"),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=problem.batch,
            per_device_eval_batch_size=EVALUATED,
            eval_strategy="epoch",
            save_strategy="epoch",
            report_to="none",
            use_cpu=True,
            learning_rate=RATE,
            weight_decay=DECAY,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            max_grad_norm=0.0,
            disable_tqdm=True,
            remove_unused_columns=False,
            prediction_loss_only=True,
            label_names=[f"y{k}" for k in range(len(problem.kinds))],
        ),
        data_collator=lambda batch: batch,
        train_dataset=Batches(problem.train),
        eval_dataset=Batches(problem.validation),
        callbacks=[Steps()],
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    clock.write(out, losses[-1] / len(problem.kinds))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
