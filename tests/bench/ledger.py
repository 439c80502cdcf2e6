"""What the gradient ledger costs: a training step beside its plain weighted sum and its peers.

    python -m tests.bench.ledger [--rounds 30] [--threads N] [--device cuda] [--quick | --labels]

All sides of a column run in one process on the same batch, each with its own copy of one network,
in an order that turns with every round. A figure is the median over the rounds of a side's time
over the plain sum's in the same round, so that a change of the machine's load meets both. The
plain sum against itself shows what is noise. Before any clock starts, each side's gradients are
checked to be what its name says.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from job import spec
from job.balance.build import build_balancer
from job.distributed.device import prepare_device
from job.model.built_in import BuiltIn
from job.model.heads import StepHead
from job.model.losses import TaskLoss
from job.model.losses.element_losses import element_losses, mean_loss
from job.train.gradients.ownership import ownership
from job.train.step import Stepper
from tests.support.nets import built_in

BARS, FEATURES = 105, 12
FOUR = [
    ("type", "window", 3, {"kind": "cross_entropy"}),
    ("pointers", "window", 2, {"kind": "huber"}),
    ("binary", "step", 1, {"kind": "binary_cross_entropy"}),
    ("countdown", "step", 1, {"kind": "huber"}),
]
CASES = {(4, 32): 1.05, (4, 256): 1.05, (32, 32): 1.15, (32, 256): 1.15}
"""Tasks and batch size, and the most that `evengrad, fixed` may cost."""
PLAIN, AGAIN, FIXED = "plain weighted sum", "plain weighted sum, again", "evengrad, fixed"
FIXED_AGAIN = "evengrad, fixed, again"
SEPARATE, MTL = "K separate backwards", "torchjd mtl_backward, UPGrad"
HALF = "evengrad, fixed, half of the labels"
WEIGHED = "evengrad, fixed, half of the labels, weights"
PLAIN_HALF, PLAIN_WEIGHED = (
    f"plain weighted sum, half of the labels{more}" for more in ("", ", weights")
)
BASES = {HALF: PLAIN_HALF, WEIGHED: PLAIN_WEIGHED}
"""Sides that are compared with another one than PLAIN: with a plain sum over the same labels."""
WARM_UP = 3


class Problem:
    """Tasks with random features and targets."""

    def __init__(self, count: int, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.tasks = [_task(i) for i in range(count)]
        self.inputs = {"features": torch.randn(batch, BARS, FEATURES, device=device)}
        self.targets = [_target(task, batch).to(device) for task in self.tasks]
        self.device = device

    def halved(self, **more: Any) -> Problem:
        """The same without half of the labels, and with more fields of the tasks."""
        half = copy.copy(self)
        update = {"missing": "skip", **more}
        half.tasks = [task.model_copy(update=update) for task in self.tasks]
        half.targets = [
            torch.where(torch.rand(y.shape, device=y.device) < 0.5, _missing(y), y)
            for y in self.targets
        ]
        return half

    def losses(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        rows = zip(self.tasks, outputs, self.targets, strict=True)
        return [mean_loss(task.loss, output, target) for task, output, target in rows]


def _task(i: int) -> spec.Task:
    """The four tasks of the real job, repeated."""
    name, level, outputs, loss = FOUR[i % 4]
    return spec.Task.model_validate(
        {"name": f"{name}_{i // 4}", "level": level, "outputs": outputs, "loss": loss}
    )


def _missing(target: Tensor) -> float:
    return torch.nan if target.is_floating_point() else -1


def _target(task: spec.Task, batch: int) -> Tensor:
    shape = (batch, BARS) if task.level == "step" else (batch,)
    if task.loss.kind == "cross_entropy":
        return torch.randint(task.outputs, shape)
    if task.loss.kind == "binary_cross_entropy":
        return torch.randint(2, (*shape, task.outputs)).float()
    return torch.randn(*shape, task.outputs)


# --- sides ------------------------------------------------------------------------------------


class Side:
    """A network with its optimizer; `step` is what the clock sees."""

    def __init__(self, problem: Problem) -> None:
        torch.manual_seed(0)
        self.problem = problem
        self.model = built_in(spec.Lstm(), problem.tasks, BARS, FEATURES).to(problem.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, fused=True)
        self.shared = list(self.model.trunk.parameters())

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.backward()
        self.optimizer.step()

    def backward(self) -> None:
        raise NotImplementedError


class Plain(Side):
    """The floor: a weighted sum of the losses, one backward."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.weights = torch.ones(len(problem.tasks), device=problem.device)

    def backward(self) -> None:
        losses = self.problem.losses(self.model(self.problem.inputs))
        (torch.stack(losses) * self.weights).sum().backward()


class PlainHalf(Plain):
    """The same over the labels that are there, written out: Σ w l / Σ w of each task."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.given = torch.rand(len(problem.targets[0]), device=problem.device)

    def backward(self) -> None:
        outputs = self.model(self.problem.inputs)
        rows = zip(self.problem.tasks, outputs, self.problem.targets, strict=True)
        losses = torch.stack([self._loss(*row) for row in rows])
        (losses * self.weights).sum().backward()

    def _loss(self, task: spec.Task, output: Tensor, target: Tensor) -> Tensor:
        known = target >= 0 if task.loss.of_classes else ~target.isnan()
        weights = known.float()
        if task.sample_weight:
            weights = weights * self.given.view(-1, *[1] * (weights.dim() - 1))
        each = element_losses(task.loss, output, torch.where(known, target, 0))
        return (each * weights).sum() / weights.sum().clamp(min=1e-8)


def apart(model: BuiltIn, z: Tensor) -> list[Tensor]:
    """The model's outputs, no two heads in one product: what is best for one backward per task."""
    rows = iter([head.rows(len(z)) for head in model.step_heads])
    pooled = z.mean(1)
    return [
        torch.baddbmm(head.output.bias, z, next(rows).mT)
        if isinstance(head, StepHead)
        else head(pooled)
        for head in model.heads
    ]


class Separate(Side):
    """One backward per task, for the norms of their gradients on the shared parameters."""

    def backward(self) -> None:
        losses = self.problem.losses(apart(self.model, self.model.represent(self.problem.inputs)))
        for loss, head in zip(losses, self.model.heads, strict=True):
            parameters = [*self.shared, *head.parameters()]
            grads = torch.autograd.grad(loss, parameters, retain_graph=loss is not losses[-1])
            torch.stack(torch._foreach_norm(grads[: len(self.shared)])).norm()
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad if parameter.grad is None else parameter.grad + grad


class MtlBackward(Side):
    """torchjd's own way: the Jacobian of all losses on the shared parameters, aggregated."""

    def __init__(self, problem: Problem) -> None:
        from torchjd.aggregation import UPGrad

        super().__init__(problem)
        self.aggregator = UPGrad()

    def backward(self) -> None:
        from torchjd.autojac import jac_to_grad, mtl_backward

        z = self.model.represent(self.problem.inputs)
        losses = self.problem.losses(apart(self.model, z))
        mtl_backward(losses, features=z, parallel_chunk_size=1)  # LSTMs have no batched backward
        jac_to_grad(self.shared, self.aggregator)


class Evengrad(Side):
    """The trainer's step."""

    def __init__(self, problem: Problem, section: dict[str, Any]) -> None:
        super().__init__(problem)
        chosen: spec.Balance = TypeAdapter(spec.Balance).validate_python(section)
        tasks = problem.tasks
        balancer = build_balancer(chosen, [task.name for task in tasks], [1] * len(tasks))
        losses = [TaskLoss(task) for task in tasks]
        known = ownership(self.model, problem.inputs)
        self.stepper = Stepper(self.model, known, losses, balancer).to(problem.device)
        given = torch.rand(len(problem.targets[0]), device=problem.device)
        self.of_samples = [given if task.sample_weight else None for task in tasks]

    def step(self) -> None:
        problem = self.problem
        self.stepper(problem.inputs, problem.targets, self.optimizer, of_samples=self.of_samples)


def sides(problem: Problem, peers: bool) -> dict[str, Side]:
    """The steps to compare."""
    compared: dict[str, Side] = {
        PLAIN: Plain(problem),
        AGAIN: Plain(problem),
        FIXED: Evengrad(problem, {"kind": "fixed"}),
        "evengrad, gradient_norm": Evengrad(problem, {"kind": "gradient_norm"}),
        "evengrad, torchjd UPGrad": Evengrad(problem, {"kind": "torchjd", "method": "UPGrad"}),
    }
    if peers:
        compared |= {SEPARATE: Separate(problem), MTL: MtlBackward(problem)}
    return compared


def label_sides(problem: Problem) -> dict[str, Side]:
    """Steps with all labels and with half of them."""
    fixed = {"kind": "fixed"}
    half, weighed = problem.halved(), problem.halved(sample_weight="w")
    return {
        PLAIN: Plain(problem),
        FIXED: Evengrad(problem, fixed),
        FIXED_AGAIN: Evengrad(problem, fixed),
        PLAIN_HALF: PlainHalf(half),
        HALF: Evengrad(half, fixed),
        PLAIN_WEIGHED: PlainHalf(weighed),
        WEIGHED: Evengrad(weighed, fixed),
    }


# --- what the sides compute -------------------------------------------------------------------


def check(compared: dict[str, Side]) -> None:
    """Hold the sides' first gradients, under equal dropout, against the plain sum's and UPGrad's.

    Raises AssertionError where one differs.
    """
    plain = _gradients(compared[PLAIN])
    for name in (AGAIN, FIXED, SEPARATE):
        if name in compared:
            _assert_equal(name, _gradients(compared[name]), plain)
    if MTL in compared:
        _assert_equal(MTL, _gradients(compared[MTL]), [*_upgrad(compared[MTL]), *plain[8:]])


def _gradients(side: Side) -> list[Tensor]:
    """Of every parameter, the trunk's first; the network stays as it was."""
    before = [p.detach().clone() for p in side.model.parameters()]
    torch.manual_seed(1)
    side.step()
    for p, old in zip(side.model.parameters(), before, strict=True):
        p.data.copy_(old)
    return [p.grad.clone() for p in side.model.parameters() if p.grad is not None]


def _upgrad(side: Side) -> list[Tensor]:
    """UPGrad's combination of the trunk's gradients, from one backward per task."""
    from torchjd.aggregation import UPGrad

    torch.manual_seed(1)
    losses = side.problem.losses(side.model(side.problem.inputs))
    rows = [torch.autograd.grad(loss, side.shared, retain_graph=True) for loss in losses]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    combined = UPGrad()(jacobian).split([p.numel() for p in side.shared])
    return [part.view_as(p) for part, p in zip(combined, side.shared, strict=True)]


def _assert_equal(name: str, compared: list[Tensor], expected: list[Tensor]) -> None:
    for mine, theirs in zip(compared, expected, strict=True):
        gap = (mine - theirs).norm() / theirs.norm()
        assert gap < 1e-3, f"{name}: a gradient differs by {gap:.1e} of its norm"


# --- the clock --------------------------------------------------------------------------------


class Column(NamedTuple):
    """What one case measured."""

    ratios: dict[str, float]
    """Median over the rounds of each side's time over the plain sum's, or over that of BASES."""
    plain: float
    """Median seconds of the plain sum."""


def measure(compared: dict[str, Side], rounds: int, cuda: bool, cpu_time: bool = False) -> Column:
    """Time every side once a round, the order turned by one from round to round.

    cpu_time: of this thread, for the time that other processes take does not count then.
    """
    clock = time.thread_time if cpu_time else time.perf_counter
    names = list(compared)
    taken: list[dict[str, float]] = []
    for i in range(WARM_UP + rounds):
        times = {}
        for name in names[i % len(names) :] + names[: i % len(names)]:
            begun = clock()
            compared[name].step()
            if cuda:
                torch.cuda.synchronize()
            times[name] = clock() - begun
        taken.append(times)
    taken = taken[WARM_UP:]
    bases = {name: BASES.get(name, PLAIN) for name in names}
    ratios = {name: statistics.median(t[name] / t[bases[name]] for t in taken) for name in names}
    return Column(ratios, statistics.median(t[PLAIN] for t in taken))


def table(columns: dict[tuple[int, int], Column], title: str) -> Table:
    """Ratios by side and case."""
    made = Table(title=title, title_justify="left")
    made.add_column("step")
    for count, batch in columns:
        made.add_column(f"K={count} B={batch}", justify="right")
    for name in next(iter(columns.values())).ratios:
        cells = [c.ratios.get(name) for c in columns.values()]
        made.add_row(name, *("" if x is None else f"{x:.3f}" for x in cells))
    made.add_section()
    made.add_row(f"limit of {FIXED}", *(f"{CASES[case]:.2f}" for case in columns))
    made.add_row("plain weighted sum, ms", *(f"{c.plain * 1e3:.1f}" for c in columns.values()))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="at batch 256; four times at 32")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="without the peers")
    parser.add_argument(
        "--labels",
        action="store_true",
        help="missing labels and weights, beside plain sums over the same labels; CPU time",
    )
    options = parser.parse_args()
    train = {"epochs": 1, "batch_size": 1, "device": options.device, "threads": options.threads}
    device = prepare_device(spec.Train.model_validate(train))
    columns = {}
    for count, batch in CASES:
        if options.labels and count > 4:
            continue
        # At K = 32 the peers take seconds a step and tell nothing new.
        problem, peers = Problem(count, batch, device), count == 4 and not options.quick
        compared = label_sides(problem) if options.labels else sides(problem, peers)
        check(compared)
        rounds = options.rounds * (4 if batch == 32 else 1)
        cpu_time = options.labels and device.type == "cpu"
        columns[count, batch] = measure(compared, rounds, device.type == "cuda", cpu_time)
    title = (
        f"one training step on {device.type} ({torch.get_num_threads()} threads), as a ratio to "
        f"the plain weighted sum"
    )
    Console(width=110).print(table(columns, title))


if __name__ == "__main__":
    main()
