"""What the ledger costs in networks that we have not written, beside other exact ways.

    python -m tests.bench.networks [--rounds 30] [--tasks 4 8] [--batch 32]

As tests.bench.ledger measures: all sides of a network in one process, on one batch, each with its
own copy, in turning order; ratios to the plain weighted sum in the same round, medians over the
rounds, of this thread's CPU time. Before any clock starts, every side's gradients are held against
the plain sum's.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from job import spec
from job.balance.fixed import Fixed
from job.balance.torchjd import TorchJD
from job.model.losses import TaskLoss
from job.model.network import Inputs, Network, Z, parts
from job.train.gradients.ownership import ownership
from job.train.step import Stepper
from tests.bench.ledger import PLAIN, measure

WIDTH, LENGTH, PIXELS = 128, 64, 28
AGAIN = "plain weighted sum, again"
SEPARATE = "K separate backwards"


def mlp(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, 1))


class Mlp(Network):
    """Three wide layers; an MLP for each task."""

    shape: tuple[int, ...] = (32,)

    def __init__(self, count: int) -> None:
        super().__init__([f"t{k}" for k in range(count)])
        self.trunk: nn.Module = nn.Sequential(
            *(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, WIDTH))
        )
        self.heads = nn.ModuleList([mlp(WIDTH, 64) for _ in self.tasks])

    def represent(self, inputs: Inputs) -> Z:
        z: Tensor = self.trunk(inputs["x"])
        return z

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        out: Tensor = self.heads[self.tasks.index(task)](z)
        return out


class Group(Mlp):
    """The same, with a layer that two tasks share above z: two backwards through the heads."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.group = nn.Linear(WIDTH, WIDTH)

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, Tensor)
        return super().read(task, self.group(z) if task in self.tasks[:2] else z, inputs)


class Conv(Mlp):
    """Four convolutions on an image; an MLP of the pooled z for each task."""

    shape = (1, PIXELS, PIXELS)

    def __init__(self, count: int) -> None:
        super().__init__(count)
        layers: list[nn.Module] = []
        for before, after in ((1, 16), (16, 32), (32, 32), (32, WIDTH)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if after == 32 and before == 16 else []
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Encoder(Mlp):
    """A transformer; an MLP at each of 64 positions for each task."""

    shape = (LENGTH, WIDTH)

    def __init__(self, count: int) -> None:
        super().__init__(count)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 256, 0.0, batch_first=True, norm_first=True)
        self.trunk = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.heads = nn.ModuleList([mlp(WIDTH, 32) for _ in self.tasks])


class Whole(Mlp):
    """The MLP as a network without a z."""

    represent = Network.represent

    def forward(self, inputs: Inputs) -> list[Tensor]:
        z = self.trunk(inputs["x"])
        return [head(z) for head in self.heads]


NETWORKS: dict[str, type[Mlp]] = {
    "MLP": Mlp,
    "MLP, group layer": Group,
    "conv 28 × 28": Conv,
    "transformer, 64 positions": Encoder,
    "MLP without z": Whole,
}


class Side:
    """A copy of a network with its optimizer."""

    def __init__(self, model: Mlp, batch: int) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, fused=True)
        draw = torch.Generator().manual_seed(0)
        self.inputs = {"x": torch.randn(batch, *model.shape, generator=draw)}
        shape = (batch, LENGTH, 1) if isinstance(model, Encoder) else (batch, 1)
        self.targets = [torch.randn(shape, generator=draw) for _ in model.tasks]
        level = "step" if isinstance(model, Encoder) else "window"
        given = {"level": level, "outputs": 1, "loss": {"kind": "mse"}}
        self.tasks = [spec.Task.model_validate({"name": t, **given}) for t in model.tasks]
        self.losses = [TaskLoss(task) for task in self.tasks]
        self.count = 0

    def of(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        rows = zip(self.losses, outputs, self.targets, strict=True)
        return [loss(output, y)[0] for loss, output, y in rows]

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.backward()
        self.optimizer.step()

    def backward(self) -> None:
        """A plain sum."""
        torch.stack(self.of(self.model(self.inputs))).sum().backward()


class Separate(Side):
    """One backward per task, for the norms of the gradients at the trunk's parameters."""

    def backward(self) -> None:
        losses = self.of(self.model(self.inputs))
        named = list(self.model.parameters())
        below = len(list(self.model.trunk.parameters()))
        for loss in losses:
            last = loss is losses[-1]
            grads = torch.autograd.grad(loss, named, retain_graph=not last, allow_unused=True)
            torch.stack(torch._foreach_norm([g for g in grads[:below] if g is not None])).norm()
            for p, grad in zip(named, grads, strict=True):
                if grad is not None:
                    p.grad = grad if p.grad is None else p.grad + grad


class MtlBackward(Side):
    """torchjd's Jacobian of all losses at the trunk's parameters, aggregated."""

    def backward(self) -> None:
        from torchjd.aggregation import UPGrad
        from torchjd.autojac import jac_to_grad, mtl_backward

        z = self.model.represent(self.inputs)
        outputs = [self.model.read(task, z, self.inputs) for task in self.model.tasks]
        mtl_backward(self.of(outputs), features=parts(z), parallel_chunk_size=1)
        jac_to_grad(list(self.model.trunk.parameters()), UPGrad())


class Evengrad(Side):
    """The trainer's step."""

    def __init__(
        self, model: Mlp, batch: int, every: int | None = None, upgrad: bool = False
    ) -> None:
        super().__init__(model, batch)
        known = ownership(self.model, self.inputs)
        count = len(self.tasks)
        balancer = TorchJD("UPGrad", {}, count) if upgrad else Fixed([1.0] * count)
        self.stepper = Stepper(self.model, known, self.losses, balancer, every=every)

    def step(self) -> None:
        self.count += 1
        self.stepper(self.inputs, self.targets, self.optimizer, step=self.count)


def sides(name: str, count: int, batch: int) -> dict[str, Any]:
    """The steps to compare."""
    torch.manual_seed(0)
    model = NETWORKS[name](count)
    compared: dict[str, Any] = {
        PLAIN: Side(model, batch),
        AGAIN: Side(model, batch),
        "evengrad, fixed": Evengrad(model, batch, 1),
        "evengrad, UPGrad": Evengrad(model, batch, 1, upgrad=True),
        SEPARATE: Separate(model, batch),
    }
    if name == "MLP without z":
        compared["evengrad, fixed, between two measurements"] = Evengrad(model, batch)
    elif name != "MLP, group layer":  # mtl_backward has no place for what two heads share
        compared["torchjd mtl_backward, UPGrad"] = MtlBackward(model, batch)
    return compared


def check(compared: dict[str, Any]) -> None:
    """Raise AssertionError where the gradients of a plain sum differ from one side to another."""
    wanted = _gradients(compared[PLAIN])
    for name in (AGAIN, SEPARATE, "evengrad, fixed"):
        for mine, theirs in zip(_gradients(compared[name]), wanted, strict=True):
            assert (mine - theirs).norm() <= 1e-4 * theirs.norm() + 1e-9, name


def _gradients(side: Any) -> list[Tensor]:
    before = copy.deepcopy(side.model.state_dict())
    side.step()
    side.model.load_state_dict(before)
    return [p.grad.clone() for p in side.model.parameters()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tasks", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="one training step, as a ratio to the plain weighted sum (CPU time)")
    for title in ("network", "K", "plain, ms", "step", "ratio"):
        table.add_column(title)
    for name in NETWORKS:
        for count in options.tasks:
            compared = sides(name, count, options.batch)
            check(compared)
            column = measure(compared, options.rounds, cuda=False, cpu_time=True)
            for side, ratio in column.ratios.items():
                table.add_row(name, str(count), f"{column.plain * 1e3:.1f}", side, f"{ratio:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
