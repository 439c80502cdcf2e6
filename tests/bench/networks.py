"""What the ledger costs, in time and memory, in every kind of network, beside its peers.

    python -m tests.bench.networks [--minutes 12] [--rounds 30] [--networks lstm mlp …]
        [--tasks 2 4 8 32] [--batches 32 256] [--results FILE]
    python -m tests.bench.networks --compiled [--networks mlp conv2d …]

The second is of a compiled step beside one that is not, into `build/compiled.jsonl`.

Each cell (a network, a number of tasks, a batch) goes into the results as soon as it is measured,
and is not measured again: start the command as often as it needs to end. tests.bench.price says how
it measures. Before any clock starts, each side's gradients are held against the plain sum's. Lines
"over the limit" name cells that cost more than those of a large network may (docs/balancing.md).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter
from rich.console import Console
from torch import Tensor, nn

from job import spec
from job.balance.fixed import Fixed
from job.balance.torchjd import TorchJD
from job.data.encoding.input_info import InputInfo
from job.model.built_in import BuiltIn
from job.model.deep import Deep
from job.model.losses import TaskLoss
from job.model.losses.element_losses import mean_loss
from job.model.network import Inputs, Network, Z, parts
from job.train.build.compiled import compiled
from job.train.gradients.forks import rebuilt
from job.train.gradients.ownership import ownership
from job.train.step import Stepper
from tests.bench.header import RESULTS, begin
from tests.bench.ledger import FOUR, apart
from tests.bench.price import (
    AGAIN,
    FIXED,
    PLAIN,
    SEPARATE,
    Key,
    Side,
    append_cell,
    as_tensors,
    beyond,
    measured,
    read_cells,
    tables,
)

REP, MTL = "gradients at z, as LibMTL", "torchjd mtl_backward"
COMPILED = "evengrad, fixed, compiled"
UPGRAD, BETWEEN = "evengrad, UPGrad", "evengrad, fixed, between two measurements"
PEERS = 8
"""Tasks beyond which backwards per task are slow."""
MODEL: TypeAdapter[Any] = TypeAdapter(spec.Model)
SAMPLES = [(name, "sample", outputs, loss) for name, level, outputs, loss in FOUR[:2]]


class Case(NamedTuple):
    """A kind of network, with random data that fit it."""

    build: Callable[[list[spec.Task], tuple[int, ...]], Network]
    shape: tuple[int, ...]
    """Of a sample."""
    tasks: Sequence[tuple[str, str, int, dict[str, Any]]]
    """Name, level, outputs and loss; repeated."""

    def task(self, i: int) -> spec.Task:
        name, level, outputs, loss = self.tasks[i % len(self.tasks)]
        return spec.Task.model_validate(
            {"name": f"{name}_{i}", "level": level, "outputs": outputs, "loss": loss}
        )


def of_spec(
    head: dict[str, Any] | None = None, **model: Any
) -> Callable[[list[spec.Task], tuple[int, ...]], Network]:
    """A built-in network."""

    def build(tasks: list[spec.Task], shape: tuple[int, ...]) -> Network:
        section = MODEL.validate_python(model)
        heads = spec.Head.model_validate(head or {})
        tasks = [task.model_copy(update={"head": heads}) for task in tasks]
        kind = Deep if head or section.experts else BuiltIn
        return kind(section, tasks, {"x": InputInfo()}, {"x": shape})

    return build


class Whole(Network):
    """An MLP without a z."""

    def __init__(self, tasks: list[spec.Task], shape: tuple[int, ...]) -> None:
        super().__init__([task.name for task in tasks])
        self.trunk = nn.Sequential(nn.Linear(shape[0], 256), nn.ReLU(), nn.Linear(256, 256))
        self.heads = nn.ModuleList([nn.Linear(256, task.outputs) for task in tasks])

    def forward(self, inputs: Inputs) -> list[Tensor]:
        z = self.trunk(inputs["x"])
        return [head(z) for head in self.heads]


class Encoder(Network):
    """PyTorch's encoder, which evengrad knows nothing of; an MLP at each position per task."""

    def __init__(self, tasks: list[spec.Task], shape: tuple[int, ...]) -> None:
        super().__init__([task.name for task in tasks])
        layer = nn.TransformerEncoderLayer(64, 4, 256, 0.1, batch_first=True, norm_first=True)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.trunk = nn.Sequential(nn.Linear(shape[-1], 64), encoder)
        heads = [(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, task.outputs)) for task in tasks]
        self.heads = nn.ModuleDict(
            {task.name: nn.Sequential(*head) for task, head in zip(tasks, heads, strict=True)}
        )
        self.pooled = {task.name for task in tasks if task.level == "window"}

    def represent(self, inputs: Inputs) -> Z:
        z: Tensor = self.trunk(inputs["x"])
        return z

    def read(self, task: str, z: Z, inputs: Inputs) -> Tensor:
        assert isinstance(z, Tensor)
        out: Tensor = self.heads[task](z.mean(1) if task in self.pooled else z)
        return out


CASES = {
    "lstm": Case(of_spec(kind="lstm"), (105, 12), FOUR),
    "mlp": Case(of_spec(kind="mlp"), (32,), SAMPLES),
    "conv1d": Case(of_spec(kind="conv1d"), (105, 12), FOUR),
    "conv2d": Case(of_spec(kind="conv2d", width=16), (28, 28, 1), SAMPLES),
    "transformer": Case(of_spec(kind="transformer"), (64, 12), FOUR),
    "deep heads": Case(of_spec({"hidden": (64,)}, kind="mlp"), (32,), SAMPLES),
    "shared head": Case(of_spec({"hidden": (64,), "share": "all"}, kind="mlp"), (32,), SAMPLES),
    "mmoe": Case(of_spec(kind="mlp", experts={"kind": "mmoe"}), (32,), SAMPLES),
    "ple": Case(of_spec(kind="mlp", experts={"kind": "ple"}), (32,), SAMPLES),
    "own encoder": Case(Encoder, (64, 12), FOUR),
    "own without z": Case(Whole, (32,), SAMPLES),
}


class Problem:
    """A network at its start, with one batch."""

    def __init__(self, name: str, count: int, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        case = CASES[name]
        self.device = device
        self.tasks = [case.task(i) for i in range(count)]
        self.network = case.build(self.tasks, case.shape).to(device)
        self.inputs = {"x": torch.randn(batch, *case.shape, device=device)}
        self.targets = [self._target(task, batch, case.shape).to(device) for task in self.tasks]
        self.known = ownership(self.network, {"x": self.inputs["x"][:8]})
        z = self.network.represent(self.inputs) if self.known.cut else None
        self.one_z = isinstance(z, Tensor)

    @staticmethod
    def _target(task: spec.Task, batch: int, shape: tuple[int, ...]) -> Tensor:
        places = (batch, shape[0]) if task.level == "step" else (batch,)
        if task.loss.of_classes:
            return torch.randint(task.outputs, places)
        if task.loss.kind == "binary_cross_entropy":
            return torch.randint(2, (*places, task.outputs)).float()
        return torch.randn(*places, task.outputs)


class Plain:
    """The floor: a weighted sum of the losses, one backward."""

    slow = False

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.model = copy.deepcopy(problem.network)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, fused=True)
        named = dict(self.model.named_parameters())
        self.below = [named[name] for name in problem.known.below]
        several = [named[name] for name in problem.known.of_several]
        self.of_tasks = [
            [*several, *(named[name] for name in names)] for names in problem.known.of_tasks
        ]

    def losses(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        rows = zip(self.problem.tasks, outputs, self.problem.targets, strict=True)
        return [mean_loss(task.loss, output, target) for task, output, target in rows]

    def read(self, each: Sequence[Z]) -> list[Tensor]:
        """The heads' outputs, each of its own z, so that backwards per task share nothing."""
        return self.model.read_each(each, self.problem.inputs)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.backward()
        self.optimizer.step()

    def backward(self) -> None:
        torch.stack(self.losses(self.model(self.problem.inputs))).sum().backward()

    def drop_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def holds(self) -> list[Tensor]:
        ours = [t for state in self.optimizer.state.values() for t in as_tensors(state.values())]
        batch = [*self.problem.inputs.values(), *self.problem.targets]
        return [*self.model.parameters(), *ours, *batch]


class Separate(Plain):
    """One backward per task, for the norms of their gradients at the shared parameters."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.slow = len(problem.tasks) >= PEERS

    def outputs(self) -> list[Tensor]:
        if isinstance(self.model, BuiltIn):
            return apart(self.model, self.model.represent(self.problem.inputs))
        return self.model(self.problem.inputs)  # type: ignore[no-any-return]

    def backward(self) -> None:
        losses = self.losses(self.outputs())
        for loss, own in zip(losses, self.of_tasks, strict=True):
            wanted = [*self.below, *own]
            grads = torch.autograd.grad(
                loss, wanted, retain_graph=loss is not losses[-1], allow_unused=True
            )
            at_trunk = as_tensors(grads[: len(self.below)])
            torch.stack(torch._foreach_norm(at_trunk)).norm()
            for p, grad in zip(wanted, grads, strict=True):
                if grad is not None:
                    p.grad = grad if p.grad is None else p.grad + grad


class AtZ(Plain):
    """As LibMTL does with rep_grad: each task reads a copy of z of its own and goes back to it; the
    copies' gradients are stacked and compared, and their sum goes through the trunk."""

    def backward(self) -> None:
        z = self.model.represent(self.problem.inputs)
        whole = parts(z)
        copies = [[part.detach().clone().requires_grad_() for part in whole] for _ in self.of_tasks]
        each = [rebuilt(z, iter(mine)) for mine in copies]
        outputs = apart_each(self.model, each) if self.problem.one_z else self.read(each)
        for loss in self.losses(outputs):
            loss.backward(retain_graph=True)
        rows = [
            torch.stack([(torch.zeros_like(c) if c.grad is None else c.grad).flatten() for c in of])
            for of in zip(*copies, strict=True)
        ]
        torch.stack([each @ each.T for each in rows]).sum(0)
        at = [row.sum(0).view_as(part) for row, part in zip(rows, whole, strict=True)]
        torch.autograd.backward(whole, at)


def apart_each(model: Network, each: Sequence[Z]) -> list[Tensor]:
    """The heads' outputs, each of its own z, with the draws of `apart`."""
    if not isinstance(model, BuiltIn):
        return model.read_each(each, {})
    rows = iter([head.rows(len(parts(each[0])[0])) for head in model.step_heads])
    outputs = []
    for head, step, z in zip(model.heads, model.is_step, each, strict=True):
        assert isinstance(z, Tensor)
        outputs.append(
            torch.baddbmm(head.output.bias, z, next(rows).mT) if step else head(z.mean(1))
        )
    return outputs


class MtlBackward(Separate):
    """torchjd's own way: the Jacobian of all losses at the shared parameters, aggregated."""

    def backward(self) -> None:
        from torchjd.aggregation import UPGrad
        from torchjd.autojac import jac_to_grad, mtl_backward

        z = self.model.represent(self.problem.inputs)
        outputs = apart_each(self.model, [z] * len(self.of_tasks))
        mtl_backward(self.losses(outputs), features=parts(z), parallel_chunk_size=1)
        jac_to_grad(self.below, UPGrad())


class Evengrad(Plain):
    """The trainer's step."""

    def __init__(
        self,
        problem: Problem,
        every: int | None = 1,
        upgrad: bool = False,
        compiling: bool = False,
    ) -> None:
        super().__init__(problem)
        count, self.count = len(problem.tasks), 0
        balancer = TorchJD("UPGrad", {}, count) if upgrad else Fixed([1.0] * count)
        losses = [TaskLoss(task) for task in problem.tasks]
        face = compiled(self.model) if compiling else None
        made = Stepper(self.model, problem.known, losses, balancer, every=every, compiled=face)
        self.stepper = made.to(problem.device)

    def step(self) -> None:
        self.count += 1
        problem = self.problem
        self.stepper(problem.inputs, problem.targets, self.optimizer, step=self.count)


def sides(problem: Problem, compiling: bool = False) -> dict[str, Side]:
    """The steps to compare."""
    compared: dict[str, Side] = {
        PLAIN: Plain(problem),
        AGAIN: Plain(problem),
        FIXED: Evengrad(problem),
        UPGRAD: Evengrad(problem, upgrad=True),
        SEPARATE: Separate(problem),
    }
    if compiling:
        return compared | {COMPILED: Evengrad(problem, compiling=True)}
    if problem.known.at == "parameters":
        return compared | {BETWEEN: Evengrad(problem, every=10**6)}
    if problem.one_z:  # neither has a place for parts of z that follow from each other
        compared[REP] = AtZ(problem)
    if problem.one_z and not problem.known.of_several:  # nor this for what two heads share
        compared[MTL] = MtlBackward(problem)
    return compared


def check(compared: dict[str, Side]) -> None:
    """Raise AssertionError where the gradients of a plain sum differ from one side to another."""
    wanted = _gradients(compared[PLAIN])
    for name in {AGAIN, SEPARATE, FIXED, REP} & {*compared}:
        for mine, theirs in zip(_gradients(compared[name]), wanted, strict=True):
            assert (mine - theirs).norm() <= 1e-3 * theirs.norm() + 1e-7, name


def _gradients(side: Any) -> list[Tensor]:
    before = copy.deepcopy(side.model.state_dict())
    torch.manual_seed(1)
    side.step()
    side.model.load_state_dict(before)
    return [p.grad.clone() for p in side.model.parameters()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="end then, with the cells that are done")
    parser.add_argument("--rounds", type=int, default=30, help="of a cell, at most")
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8, 32])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--results", type=Path, help="by default that of the public table")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action="store_true", help="beside a compiled step alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=140)
    until = time.perf_counter() + 60 * (options.minutes or 10**6)
    wanted = [
        Key(name, count, batch, options.device, options.threads, torch.__version__)
        for batch in options.batches
        for count in options.tasks
        for name in options.networks
    ]
    public = RESULTS / "networks.jsonl"
    file = options.results or (Path("build/compiled.jsonl") if options.compiled else public)
    done = read_cells(file)
    left = [key for key in wanted if key not in done]
    if left:
        begin(file, "networks", ["torchjd"])
    for i, key in enumerate(left):
        if (seconds := until - time.perf_counter()) <= 0:
            break
        problem = Problem(key.network, key.tasks, key.batch, torch.device(key.device))
        compared = sides(problem, options.compiled)
        check(compared)
        cell = measured(key, compared, options.rounds, seconds / (len(left) - i))
        append_cell(file, cell)
        done[key] = cell
    found = [done[key] for key in wanted if key in done]
    for table in tables(found):
        console.print(table)
    for line in beyond(found):
        console.print(f"over the limit: {line}")
    missing = len(wanted) - len(found)
    console.print(f"{len(found)} of {len(wanted)} cells are in {file}, CPU time")
    if missing:
        console.print(f"{missing} are to go: start the command again")


if __name__ == "__main__":
    main()
