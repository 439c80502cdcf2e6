"""A bare PyTorch loop: steps, validation and a checkpoint in each epoch, nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.bench.speed.clock import Clock
from tests.bench.speed.problem import DECAY, EPOCHS, EVALUATED, RATE, Problem, read


def validation_losses(problem: Problem) -> list[float]:
    """The mean losses of the validation split, by task."""
    split = problem.validation
    sums = torch.zeros(len(problem.kinds))
    with torch.no_grad():
        for index in torch.arange(len(split)).split(EVALUATED):
            sums += torch.stack(problem.losses(split.at(index))) * len(index)
    means: list[float] = (sums / len(split)).tolist()
    return means


def main(folder: Path, out: Path) -> None:
    """Train in the folder, and write the marks to `out`."""
    clock = Clock()
    with clock.borrowing():
        import job.model.built_in
        import job.spec.read  # noqa: F401  # the network's code, which is evengrad's
    problem = read(folder)
    model = problem.model
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY, fused=True)
    means = [0.0]
    for epoch in range(EPOCHS):
        model.train()
        for index in problem.order(epoch).split(problem.batch):
            optimizer.zero_grad(set_to_none=True)
            torch.stack(problem.losses(problem.train.at(index))).sum().backward()
            optimizer.step()
            clock.stepped()
        model.eval()
        means = validation_losses(problem)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, folder / f"{epoch}.pt")
    clock.write(out, sum(means) / len(means))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
