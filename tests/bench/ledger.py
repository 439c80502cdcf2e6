"""What the gradient ledger costs: a training step beside its plain weighted sum and its peers.

    python -m tests.bench.ledger [--steps 30] [--quick]

All sides of a row run in one process on the same batch and the same network, in an order that
turns with every round, so that a change of the machine's load meets all of them alike. Figures are
medians; ratios are of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from job import balance, spec
from job.model import Jade
from job.step import Stepper
from job.tasks import TaskLoss, mean_loss

BARS, FEATURES = 105, 12
FOUR = [
    ("type", "window", 3, {"kind": "cross_entropy"}),
    ("pointers", "window", 2, {"kind": "huber"}),
    ("binary", "step", 1, {"kind": "binary_cross_entropy"}),
    ("countdown", "step", 1, {"kind": "huber"}),
]

Side = Callable[[], object]


def tasks_of(count: int) -> list[spec.Task]:
    """The four tasks of the real job, repeated."""
    return [
        spec.Task.model_validate(
            {"name": f"{name}_{i // 4}", "level": level, "outputs": outputs, "loss": loss}
        )
        for i in range(count)
        for name, level, outputs, loss in [FOUR[i % 4]]
    ]


def targets_of(tasks: list[spec.Task], batch: int) -> list[Tensor]:
    targets = []
    for task in tasks:
        shape = (batch, BARS) if task.level == "step" else (batch,)
        if task.loss.kind == "cross_entropy":
            targets.append(torch.randint(task.outputs, shape))
        elif task.loss.kind == "binary_cross_entropy":
            targets.append(torch.randint(2, (*shape, task.outputs)).float())
        else:
            targets.append(torch.randn(*shape, task.outputs))
    return targets


def sides(tasks: list[spec.Task], batch: int, device: str) -> dict[str, Side]:
    """The steps to compare, each with its own copy of one network."""
    features = torch.randn(batch, BARS, FEATURES, device=device)
    targets = [t.to(device) for t in targets_of(tasks, batch)]

    def network() -> tuple[Jade, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = Jade(spec.Jade(), FEATURES, tasks).to(device)
        return model, torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def losses(outputs: list[Tensor]) -> list[Tensor]:
        return [
            mean_loss(task.loss, output, target)
            for task, output, target in zip(tasks, outputs, targets, strict=True)
        ]

    def plain() -> Side:
        model, optimizer = network()
        weights = torch.ones(len(tasks), device=device)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            (torch.stack(losses(model(features))) * weights).sum().backward()
            optimizer.step()

        return step

    def separate() -> Side:
        model, optimizer = network()
        shared = list(model.trunk.parameters())

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            each = losses(model(features))
            for k, loss in enumerate(each):
                before = [None if p.grad is None else p.grad.clone() for p in shared]
                loss.backward(retain_graph=k + 1 < len(each))
                norms = [
                    (p.grad if b is None else p.grad - b).norm()
                    for p, b in zip(shared, before, strict=True)
                    if p.grad is not None
                ]
                torch.stack(norms).norm()
            optimizer.step()

        return step

    def torchjd() -> Side:
        from torchjd.aggregation import UPGrad
        from torchjd.autojac import jac_to_grad, mtl_backward

        model, optimizer = network()
        shared, aggregator = list(model.trunk.parameters()), UPGrad()

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            z = model.trunk(features)
            pooled = z.mean(1)
            is_step = [task.level == "step" for task in tasks]
            outputs = model.outputs(model.read_steps(z)[0], [pooled] * is_step.count(False))
            mtl_backward(losses(outputs), features=z)
            jac_to_grad(shared, aggregator)
            optimizer.step()

        return step

    def ledger(kind: dict[str, object]) -> Side:
        model, optimizer = network()
        chosen: spec.Balance = TypeAdapter(spec.Balance).validate_python(kind)
        names, sizes = [t.name for t in tasks], [1] * len(tasks)
        balancer = balance.make(chosen, names, sizes).to(device)
        stepper = Stepper(model, [TaskLoss(t).to(device) for t in tasks], balancer)
        stepper.to(device)
        return lambda: stepper(features, targets, optimizer)

    return {
        "plain weighted sum": plain(),
        "plain weighted sum, again": plain(),
        "evengrad, fixed": ledger({"kind": "fixed"}),
        "evengrad, gradient_norm": ledger({"kind": "gradient_norm"}),
        "evengrad, torchjd UPGrad": ledger({"kind": "torchjd", "method": "UPGrad"}),
        "K separate backwards": separate(),
        "torchjd mtl_backward, UPGrad": torchjd(),
    }


def medians(steps: dict[str, Side], rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each side, the order turned by one every round."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for i in range(rounds + 3):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            begun = time.perf_counter()
            steps[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            if i >= 3:  # warm-up
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="without the slow peers")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    cases = [(4, 32), (4, 256), (32, 32), (32, 256)]
    table = Table(title=f"one training step, {options.device}, ratio to a plain weighted sum")
    table.add_column("step")
    columns = []
    for count, batch in cases:
        table.add_column(f"K={count} B={batch}", justify="right")
        compared = sides(tasks_of(count), batch, options.device)
        if options.quick or count > 4:
            # At K = 32 the peers take seconds a step and tell nothing new.
            compared = {n: s for n, s in compared.items() if n.startswith(("plain", "even"))}
        columns.append(medians(compared, options.steps, options.device))
    for name in columns[0]:
        cells = []
        for column in columns:
            ratio = column.get(name, 0) / column["plain weighted sum"]
            cells.append(f"{ratio:.3f}" if name in column else "")
        table.add_row(name, *cells)
    table.add_row("plain, ms", *(f"{c['plain weighted sum'] * 1e3:.1f}" for c in columns))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
