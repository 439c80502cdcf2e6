"""Networks as someone would write them who knows the contract alone, and steps of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from job import spec
from job.balance.base import Balancer
from job.data.encoding.input_info import InputInfo
from job.distributed.ranks import ALONE, Ranks
from job.model.deep import Deep
from job.model.losses import TaskLoss
from job.model.network import Inputs, Network, Z
from job.train.gradients.ownership import ownership
from job.train.step import Measured, Stepper
from job.train.updates import optimizer
from tests.support.nets import BALANCE, balancer, task

POSITIONS, WIDTH = 5, 8
MODEL: TypeAdapter[Any] = TypeAdapter(spec.Model)
WINDOWS = [
    task("kind", "window", "cross_entropy", 3),
    task("level", "window", "mse", transform={"kind": "scale", "by": 2.0}),
    task("both", "window", "huber", 2),
]
STEPS = [
    task("class", "step", "cross_entropy", 3),
    task("value", "step", "mse"),
    task("pair", "step", "binary_cross_entropy", 2),
]


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


class Heads(Network):
    """A network with a head for each task, in a dict."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__([t.name for t in tasks])
        self.outputs = {t.name: t.outputs for t in tasks}

    def mlp_heads(self, width: int) -> nn.ModuleDict:
        return nn.ModuleDict({f"to_{t}": mlp(width, 6, n) for t, n in self.outputs.items()})


class TupleZ(Heads):
    """z is two tensors; each head reads both."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        self.stem, self.side = nn.Linear(WIDTH, 10), nn.Linear(10, 4)
        self.heads = self.mlp_heads(14)

    def represent(self, inputs: Inputs) -> Z:
        wide = self.stem(inputs["x"]).tanh()
        return wide, self.side(wide).relu()  # one part of z depends on the other

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        out: Tensor = self.heads[f"to_{task}"](torch.cat(list(z), -1))  # type: ignore[arg-type]
        return out


class DictZ(Heads):
    """z is a dict with a mask, a constant and a nested tuple; the heads read the inputs too."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        self.one, self.two = nn.Linear(WIDTH, 6), nn.Linear(2, 6)
        self.heads = self.mlp_heads(14)

    def represent(self, inputs: Inputs) -> Z:
        a, b = self.one(inputs["x"]), self.two(inputs["age"])
        return {"pair": (a.tanh(), b.tanh()), "keep": inputs["x"] > -1, "raw": inputs["age"]}

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, dict)
        a, b = z["pair"]
        mixed = torch.cat([a * z["keep"][:, :6], b, z["raw"] + inputs["age"]], -1)
        out: Tensor = self.heads[f"to_{task}"](mixed)
        return out


class Transformer(Heads):
    """z [B, T, D] of an encoder, an MLP per position for each task."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.heads = self.mlp_heads(WIDTH)

    def represent(self, inputs: Inputs) -> Z:
        z: Tensor = self.encoder(inputs["sequence"])
        return z

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        out: Tensor = self.heads[f"to_{task}"](z)
        return out


class ConvNet(Heads):
    """A convolutional trunk with BatchNorm and dropout; heads pool z themselves."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)
        )
        self.heads = nn.ModuleDict({f"to_{t}": nn.Conv2d(4, n, 1) for t, n in self.outputs.items()})

    def represent(self, inputs: Inputs) -> Z:
        z: Tensor = self.trunk(inputs["image"])
        return z

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        out: Tensor = self.heads[f"to_{task}"](z).mean((2, 3))
        return out


class MMoE(Heads):
    """Multi-gate mixture of experts: z is the experts' outputs; gate and tower are the head."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        self.experts = nn.ModuleList([mlp(WIDTH, 8, 5) for _ in range(3)])
        self.gates = nn.ModuleDict({f"of_{t}": nn.Linear(WIDTH, 3) for t in self.tasks})
        self.towers = self.mlp_heads(5)

    def represent(self, inputs: Inputs) -> Z:
        return torch.stack([expert(inputs["x"]) for expert in self.experts], 1)

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        gate = self.gates[f"of_{task}"](inputs["x"]).softmax(-1)
        out: Tensor = self.towers[f"to_{task}"]((gate[..., None] * z).sum(1))
        return out


class PLE(Heads):
    """Progressive layered extraction of two levels; the last level is in the heads."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        names = [*self.tasks, "shared"]
        self.first = nn.ModuleDict({f"x_{n}": nn.Linear(WIDTH, 6) for n in names})
        self.mix = nn.ModuleDict({f"g_{n}": nn.Linear(WIDTH, 2) for n in names})
        self.common = nn.Linear(6, 6)
        self.second = nn.ModuleDict({f"x_{t}": nn.Linear(6, 6) for t in self.tasks})
        self.gates = nn.ModuleDict({f"g_{t}": nn.Linear(6, 2) for t in self.tasks})
        self.towers = self.mlp_heads(6)

    def represent(self, inputs: Inputs) -> Z:
        x = inputs["x"]
        experts = {n: self.first[f"x_{n}"](x).relu() for n in [*self.tasks, "shared"]}
        streams = {}
        for name, own in experts.items():
            gate = self.mix[f"g_{name}"](x).softmax(-1)
            other = experts["shared" if name != "shared" else self.tasks[0]]
            streams[name] = gate[:, :1] * own + gate[:, 1:] * other
        streams["shared"] = self.common(streams["shared"]).relu()
        return streams

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, dict)
        gate = self.gates[f"g_{task}"](z[task]).softmax(-1)
        own = self.second[f"x_{task}"](z[task]).relu()
        out: Tensor = self.towers[f"to_{task}"](gate[:, :1] * own + gate[:, 1:] * z["shared"])
        return out


class Group(Heads):
    """A layer that the first two tasks share, above z."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        self.trunk, self.group = nn.Linear(WIDTH, 6), nn.Linear(6, 6)
        self.heads = self.mlp_heads(6)

    def represent(self, inputs: Inputs) -> Z:
        z: Tensor = self.trunk(inputs["x"]).tanh()
        return z

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, Tensor)
        mine = self.group(z).tanh() if task in self.tasks[:2] else z
        out: Tensor = self.heads[f"to_{task}"](mine)
        return out


class Disjoint(Heads):
    """Each task reads a part of z that no other reads; all come from one stem."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        self.stem = nn.Linear(WIDTH, 6)
        self.branches = nn.ModuleDict({f"b_{t}": nn.Linear(6, 4) for t in self.tasks})
        self.heads = self.mlp_heads(4)

    def represent(self, inputs: Inputs) -> Z:
        stem = self.stem(inputs["x"]).tanh()
        return {t: self.branches[f"b_{t}"](stem).tanh() for t in self.tasks}

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, dict)
        out: Tensor = self.heads[f"to_{task}"](z[task])
        return out


class Apart(Disjoint):
    """Networks side by side that share nothing."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        del self.stem

    def represent(self, inputs: Inputs) -> Z:
        return {t: self.branches[f"b_{t}"](inputs["x"][:, :6]).tanh() for t in self.tasks}


class Leak(Group):
    """A head uses a layer of the trunk again, past z."""

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, Tensor)
        again = self.trunk(inputs["x"].flip(-1)) if task == self.tasks[0] else 0.0
        return super().read(task, z + again, inputs)


class Whole(Heads):
    """A network that defines `forward` alone."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        self.trunk, self.heads = nn.Linear(WIDTH, 6), self.mlp_heads(6)

    def forward(self, inputs: Inputs) -> list[Tensor]:
        z = self.trunk(inputs["x"]).tanh()
        return [self.heads[f"to_{t}"](z) for t in self.tasks]


class Scales(Heads):
    """Heads without a matrix, and one without any parameter."""

    def __init__(self, tasks: Sequence[spec.Task]) -> None:
        super().__init__(tasks)
        self.trunk = nn.Linear(WIDTH, 3)
        names = self.tasks[1:]
        self.scales = nn.ParameterDict({f"s_{t}": torch.ones(self.outputs[t]) for t in names})

    def represent(self, inputs: Inputs) -> Z:
        z: Tensor = self.trunk(inputs["x"])
        return z

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, Tensor)
        mine = z[..., : self.outputs[task]]
        return mine * self.scales[f"s_{task}"] if task != self.tasks[0] else mine


def frozen(build: Callable[[Sequence[spec.Task]], Heads]) -> Callable[..., Heads]:
    """The network, whose trunk does not train."""

    def built(tasks: Sequence[spec.Task]) -> Heads:
        model = build(tasks)
        for p in model.get_submodule("trunk").parameters():
            p.requires_grad_(False)
        return model.train()  # frozen parts are not in training mode

    return built


def deep(share: bool = False, **model: Any) -> Callable[[Sequence[spec.Task]], Network]:
    """A network of our own with deep heads; share: the first two tasks have the same layers."""

    def built(tasks: Sequence[spec.Task]) -> Network:
        head = spec.Head(hidden=(5,), share="two" if share else None)
        tasks = [
            t.model_copy(update={"head": head if i < 2 else t.head}) for i, t in enumerate(tasks)
        ]
        section = MODEL.validate_python({"kind": "mlp", "hidden": (7,), "projection": 5, **model})
        return Deep(section, tasks, {"x": InputInfo()}, {"x": (WIDTH,)})

    return built


class Case(NamedTuple):
    """A network, and where its tasks meet."""

    build: Callable[[Sequence[spec.Task]], Network]
    at: str = "z"
    tasks: list[spec.Task] = WINDOWS


CASES = {
    "tuple": Case(TupleZ),
    "dict": Case(DictZ),
    "transformer": Case(Transformer, tasks=STEPS),
    "conv": Case(ConvNet),
    "MMoE": Case(MMoE),
    "PLE": Case(PLE),
    "group": Case(Group),
    "apart": Case(Apart),
    "scales": Case(Scales),
    "frozen": Case(frozen(ConvNet)),
    "our deep heads": Case(deep()),
    "our shared layers": Case(deep(share=True)),
    "our MMoE": Case(deep(experts={"kind": "mmoe", "count": 3, "width": 6})),
    "our PLE": Case(deep(share=True, experts={"kind": "ple", "levels": 2, "width": 6})),
    "disjoint": Case(Disjoint, "parameters"),
    "leak": Case(Leak, "parameters"),
    "whole": Case(Whole, "parameters"),
    "frozen group": Case(frozen(Group), "parameters"),
}


class Given(NamedTuple):
    """A batch."""

    inputs: dict[str, Tensor]
    targets: list[Tensor]
    of_samples: list[Tensor | None]


def given(tasks: Sequence[spec.Task], size: int = 6, seed: int = 0, partial: bool = False) -> Given:
    """Random inputs and targets; partial: without half of the labels, and samples have weights."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=draw)

    inputs = {
        "x": normal(WIDTH),
        "age": normal(2),
        "sequence": normal(POSITIONS, WIDTH),
        "image": normal(1, 4, 4),
    }
    targets = []
    for t in tasks:
        shape = (POSITIONS,) if t.level == "step" else ()
        if t.loss.kind == "cross_entropy":
            y = torch.randint(t.outputs, (size, *shape), generator=draw)
        elif t.loss.kind == "binary_cross_entropy":
            y = torch.randint(2, (size, *shape, t.outputs), generator=draw).float()
        else:
            y = normal(*shape, t.outputs)
        if partial:
            missing = torch.rand(y.shape, generator=draw) < 0.5
            missing.view(-1)[0] = False
            y[missing] = -1 if t.loss.kind == "cross_entropy" else torch.nan
        targets.append(y)
    weights = torch.rand(size, generator=draw) + 0.5 if partial else None
    return Given(inputs, targets, [weights] * len(tasks))


class Foreign:
    """A stepper of such a network with its optimizer; its parameters do not depend on the rank."""

    def __init__(
        self,
        name: str,
        section: dict[str, Any] | None = None,
        partial: bool = False,
        own: Balancer | None = None,
        ranks: Ranks = ALONE,
        lr: float = 1e-2,
        **more: Any,
    ) -> None:
        self.name, case = name, CASES[name]
        torch.manual_seed(0)
        self.model = case.build(case.tasks)
        update = {"missing": "skip", "sample_weight": "w"} if partial else {}
        self.tasks = [t.model_copy(update=update) for t in case.tasks]
        self.losses = [TaskLoss(t) for t in self.tasks]
        self.known = ownership(self.model, given(self.tasks).inputs, ranks)
        section = section or {"kind": "fixed"}
        own = own or balancer(self.tasks, section)
        self.stepper = Stepper(self.model, self.known, self.losses, own, ranks=ranks, **more)
        adamw = spec.AdamW(lr=lr, weight_decay=0.0)
        chosen = BALANCE.validate_python(section)
        self.optimizer = optimizer.build_optimizer(adamw, chosen, self.stepper)

    def step(self, at: Given, step: int = 1, audit: bool = False) -> Measured:
        measured: Measured = self.stepper(
            at.inputs, at.targets, self.optimizer, audit, None, at.of_samples, step
        )
        return measured

    def grads(self) -> dict[str, Tensor]:
        """Every parameter's gradient, 0 where there is none."""
        named = self.model.named_parameters()
        return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named}

    def task_losses(self, outputs: Sequence[Tensor], at: Given) -> list[Tensor]:
        """The K losses of outputs, with their graphs."""
        rows = zip(self.losses, outputs, at.targets, at.of_samples, strict=True)
        return [self._loss(*row) for row in rows]

    @staticmethod
    def _loss(loss: TaskLoss, outputs: Tensor, y: Tensor, of_samples: Tensor | None) -> Tensor:
        weights = loss.weights(y, of_samples)
        shares = None if weights is None else weights / weights.sum().clamp(min=1e-30)
        result: Tensor = loss(outputs, y, shares)[0]
        return result


def copied(net: Foreign) -> Foreign:
    """A copy that shares nothing."""
    return copy.deepcopy(net)
