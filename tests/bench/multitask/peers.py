"""Peers' own training loops on the same network, data, order of batches, and start.

TorchJD: the loop of its documentation, `mtl_backward` and an aggregator, under the spec's optimizer
and schedule. LibMTL: its Trainer, with Adam and the cosine schedule, the nearest that it has. Its
newest package on PyPI (1.1.5 of 2021) imports what torchvision no longer has; so the bench takes
the source of its repository (commit 4336804 of May 2025), if it is on the path:

    git clone https://github.com/median-research-group/LibMTL build/LibMTL
    PYTHONPATH=build/LibMTL python -m tests.bench.multitask

Both versions train on `cuda:0` alone; here the device is set to the CPU before the model is built.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from job.data.dataset import Split, load
from job.model.losses import TaskLoss
from job.model.network import parts
from job.spec import AdamW, JobSpec
from job.train.evaluate import batches, evaluate
from job.train.trainer import Trainer
from job.train.updates.optimizer import set_rate
from job.train.updates.schedule import schedule_factor
from tests.bench.multitask.train import Clock, Line, rounded

TORCHJD = "TorchJD's loop, UPGrad"
LIBMTL = {"LibMTL's trainer, EW": "EW", "LibMTL's trainer, UPGrad": "UPGrad"}


def peers() -> list[str]:
    """The peers that can run here."""
    return [TORCHJD, *(LIBMTL if importlib.util.find_spec("LibMTL") else ())]


def train_by(peer: str, spec: JobSpec, folder: Path) -> Line:
    """Train the spec's network by a peer; the line as a run's."""
    torch.set_num_threads(1)
    began = time.process_time()
    trainer = Trainer(spec, load(spec, folder))
    clock = Clock(trainer.batches_per_epoch)
    if peer == TORCHJD:
        _by_torchjd(trainer, clock)
    else:
        _by_libmtl(trainer, LIBMTL[peer], clock)
    trainer.model.train()
    return {
        "metrics": dict(_measured(trainer)),
        "ms": clock.ms,
        "seconds": round(time.process_time() - began, 2),
    }


def _measured(trainer: Trainer) -> Iterator[tuple[str, float | None]]:
    """By task, its metric where nothing was trained or chosen."""
    split: Split = trainer.data.test or trainer.data.validation
    found = evaluate(trainer.model, trainer.losses, split, trainer.device, metrics=True).metrics
    for task, values in zip(trainer.spec.tasks, found, strict=True):
        yield task.name, rounded(values[task.built_in_metrics[0]])


def _epochs(trainer: Trainer) -> Iterator[Iterator[Any]]:
    """The batches of each epoch, in the order in which a run takes them."""
    for _ in range(trainer.spec.train.epochs):
        yield (batch for (batch,) in trainer._rest_of_epoch())
        trainer.at.epoch += 1


def _by_torchjd(trainer: Trainer, clock: Clock) -> None:
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    spec, model = trainer.spec, trainer.model
    assert isinstance(spec.optimizer, AdamW)
    named = dict(model.named_parameters())
    shared = [named[name] for name in trainer.known.below]
    group = {"params": list(named.values()), "base_lr": spec.optimizer.lr}
    optimizer = torch.optim.AdamW([group], weight_decay=spec.optimizer.weight_decay)
    aggregator, step = UPGrad(), 0
    for epoch in _epochs(trainer):
        for batch in epoch:
            set_rate(optimizer, schedule_factor(spec.train, step, trainer.total_steps))
            optimizer.zero_grad()
            z = model.represent(batch.inputs)
            outputs = model.read_each([z] * len(trainer.losses), batch.inputs)
            losses = [
                loss(output, target)[0]
                for loss, output, target in zip(trainer.losses, outputs, batch.targets, strict=True)
            ]
            mtl_backward(losses, features=parts(z), parallel_chunk_size=1)  # no rule for an LSTM
            jac_to_grad(shared, aggregator)
            optimizer.step()
            clock()
            step += 1


class _Trunk(nn.Module):
    """What LibMTL calls an encoder: the input to z."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trunk = trainer.model.trunk
        (self.name,) = trainer.data.train.inputs

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.trunk({self.name: x})
        return z


class _Decoder(nn.Module):
    """What LibMTL calls a decoder: z to the outputs of a task."""

    def __init__(self, trainer: Trainer, task: str) -> None:
        super().__init__()
        self.head = trainer.model.by_task[f"task_{task}"]
        self.read: Callable[[Tensor], Tensor] = lambda z: trainer.model.read(task, z, {})

    def forward(self, z: Tensor) -> Tensor:
        return self.read(z)


def _by_libmtl(trainer: Trainer, weighting: str, clock: Clock) -> None:
    # LibMTL's trainer imports it for one data set of molecules, which is not here.
    sys.modules.setdefault("torch_geometric", types.ModuleType("torch_geometric"))
    import LibMTL
    from LibMTL.loss import AbsLoss
    from LibMTL.metrics import AbsMetric

    class Loss(AbsLoss):  # type: ignore[misc]  # LibMTL has no types
        def __init__(self, loss: TaskLoss) -> None:
            super().__init__()
            self.loss = loss

        def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
            return self.loss(pred, gt)[0]  # type: ignore[no-any-return]

    class NoMetric(AbsMetric):  # type: ignore[misc]
        def update_fun(self, pred: Tensor, gt: Tensor) -> None: ...

        def score_fun(self) -> list[float]:
            return [1.0]

    class OnCpu(LibMTL.Trainer):  # type: ignore[misc]
        def _prepare_model(self, *args: Any) -> None:
            self.device = torch.device("cpu")
            super()._prepare_model(*args)

    class Loader:
        """Batches as LibMTL wants them: the input, and the targets by name."""

        def __init__(self, epochs: Iterator[Iterator[Any]], length: int) -> None:
            self.epochs, self.length = epochs, length

        def __len__(self) -> int:
            return self.length

        def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
            for batch in next(self.epochs):
                (x,) = batch.inputs.values()
                yield x, dict(zip(names, batch.targets, strict=True))

    def stepped(*_: Any) -> None:
        clock()

    spec, epochs = trainer.spec, trainer.spec.train.epochs
    names = _names(trainer)
    tasks = {
        name: {
            "metrics": ["none"],
            "metrics_fn": NoMetric(),
            "loss_fn": Loss(loss),
            "weight": [1],
        }
        for name, loss in zip(names, trainer.losses, strict=True)
    }
    decoders = {
        name: _Decoder(trainer, task) for name, task in zip(names, trainer.names, strict=True)
    }
    with contextlib.redirect_stdout(io.StringIO()):
        made = OnCpu(
            task_dict=tasks,
            weighting=weighting,
            architecture="HPS",
            encoder_class=lambda: _Trunk(trainer),
            decoders=nn.ModuleDict(decoders),
            rep_grad=False,
            multi_input=False,
            optim_param={"optim": "adam", "lr": spec.optimizer.lr},
            scheduler_param={"scheduler": "cos", "T_max": epochs},
            weight_args={"UPGrad_norm_eps": 1e-4, "UPGrad_reg_eps": 1e-4},  # its defaults
            arch_args={},
        )
        made.optimizer.register_step_post_hook(stepped)
        length = trainer.batches_per_epoch
        made.train(Loader(_epochs(trainer), length), [_some(trainer)], epochs)


def _some(trainer: Trainer) -> tuple[Tensor, dict[str, Tensor]]:
    """A few samples, as LibMTL must measure something after each epoch."""
    order = torch.arange(8)
    with contextlib.closing(
        batches(trainer.data.validation, order, len(order), trainer.losses, trainer.device)
    ) as each:
        batch = next(each)
    (x,) = batch.inputs.values()
    return x, dict(zip(_names(trainer), batch.targets, strict=True))


def _names(trainer: Trainer) -> list[str]:
    """The tasks' names with a prefix, as LibMTL keeps their modules under them."""
    return [f"task_{name}" for name in trainer.names]
