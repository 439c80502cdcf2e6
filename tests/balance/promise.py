"""How far an update may raise a task's loss, over ratios of the tasks' gradient norms.

    python -m tests.balance.promise [METHOD ...]

Two tasks at cosine −0.5 first, then the least of random sets of K tasks for K = 2 … 32.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from job import spec
from job.balance.base import Balancer
from job.balance.build import build_balancer

RATIOS = (1.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e5, 1e6)
METHODS = ("UPGrad", "DualProj", "MGDA", "IMTLG", "NashMTL", "CAGrad", "AlignedMTL")
OPTIONS: dict[str, dict[str, float]] = {"CAGrad": {"c": 0.5}, "FairGrad": {"alpha": 1.0}}
SIZES = (2, 3, 4, 8, 16, 32)


def make(method: str, tasks: int) -> Balancer:
    """torchjd's method for this many tasks."""
    section = spec.TorchJD(kind="torchjd", method=method, options=dict(OPTIONS.get(method, {})))
    return build_balancer(section, [f"t{k}" for k in range(tasks)], [1] * tasks)


def at_cosine(cosine: float, ratio: float) -> Tensor:
    """Gradients [2, 2] in float64 of norms 1 and `ratio`, at this cosine."""
    sine = max(1 - cosine**2, 0.0) ** 0.5
    return torch.tensor([[cosine, sine], [ratio, 0.0]], dtype=torch.float64)


def gradients(tasks: int, ratio: float, draw: torch.Generator) -> Tensor:
    """Random gradients [K, n] with norms between 1 and `ratio`, from independent to conflicting."""
    length = int(torch.randint(2, 2 * tasks + 1, (), generator=draw))
    g = torch.randn(tasks, length, generator=draw, dtype=torch.float64)
    shared = torch.randn(length, generator=draw, dtype=torch.float64)
    signs = torch.randint(2, (tasks, 1), generator=draw).double() * 2 - 1
    g = g + 3 * torch.rand((), generator=draw, dtype=torch.float64) * signs * shared
    norms = ratio ** torch.rand(tasks, generator=draw, dtype=torch.float64)
    norms[0], norms[-1] = 1.0, ratio
    scaled: Tensor = g / g.norm(dim=1, keepdim=True) * norms[:, None]
    return scaled


def update_cosines(balancer: Balancer, g: Tensor) -> tuple[Tensor, float]:
    """Cosines [K] of the gradients g [K, n] with the update, and how much of it cancels.

    The second is Σ_k w_k |g_k| over the update's norm. The balancer sees the Gram matrix in
    float32, as in training; the update is taken in float64.
    """
    g = g.float().double()
    single = g.float()
    weights: Tensor = balancer(torch.ones(len(g)), single @ single.T).double()
    update = weights @ g
    norms = g.norm(dim=1)
    length = update.norm().clamp(min=1e-300)
    return (g @ update) / (norms * length), float((weights.abs() * norms).sum() / length)


def of_two(method: str, ratio: float) -> tuple[float, bool]:
    """The small task's cosine with the update at cosine −0.5, and whether the method fell back."""
    balancer = make(method, 2)
    cosines, _ = update_cosines(balancer, at_cosine(-0.5, ratio))
    return float(cosines[0]), bool(balancer.get_buffer("fallbacks"))


def of_many(method: str, ratio: float, sets: int = 48) -> Iterator[tuple[float, bool]]:
    """Of each random set: the least ⟨g_k, u⟩ / |g_k| over Σ_j |w_j g_j|; whether it fell back."""
    draw = torch.Generator().manual_seed(0)
    for tasks in SIZES:
        for _ in range(max(sets // len(SIZES), 1)):
            balancer = make(method, tasks)
            cosines, cancelled = update_cosines(balancer, gradients(tasks, ratio, draw))
            yield float(cosines.min()) / cancelled, bool(balancer.get_buffer("fallbacks"))


def main() -> None:
    """Print both tables."""
    console, methods = Console(width=160), sys.argv[1:] or METHODS
    two = Table(title="two tasks at cosine −0.5: the small task's cosine with the update")
    many = Table(
        title="K = 2 … 32: least ⟨g_k, u⟩ / (|g_k| Σ_j |w_j g_j|); in brackets fallbacks, %"
    )
    for table in (two, many):
        for head in ("method", *(f"{ratio:g}" for ratio in RATIOS)):
            table.add_column(head)
    for method in methods:
        row = [of_two(method, ratio) for ratio in RATIOS]
        two.add_row(method, *(f"{x:+.4f}{' ¹' if fell else ''}" for x, fell in row))
        cells = []
        for ratio in RATIOS:
            sets = list(of_many(method, ratio))
            fell = 100 * sum(f for _, f in sets) / len(sets)
            kept = [x for x, f in sets if not f]
            cells.append(f"{min(kept, default=float('nan')):+.1e} ({fell:.0f})")
        many.add_row(method, *cells)
    console.print(two, many, "¹ fell back to equal weights")


if __name__ == "__main__":
    main()
