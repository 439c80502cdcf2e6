"""From what the steps measured on the device to step events and an epoch's means on the host."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from job.events import Step
from job.step import Measured

SUMS = ("weight", "grad_norm", "grad_share", "cosine", "pull", "head_pull")
"""What is averaged over an epoch's steps, and so are the cosines between the tasks' gradients."""
FIELDS = (
    *("loss", "loss_original", "weight", "grad_norm"),
    *("grad_share", "head_grad_norm", "cosine", "shared_grad_norm"),
)
"""What a step's event says of a task."""


class NotFinite(ArithmeticError):
    """A loss or gradient was not finite; the update was not applied."""

    def __init__(self, step: int, found: str) -> None:
        super().__init__(f"step {step}: {found}; the update was not applied")
        self.step = step


class _Waiting(NamedTuple):
    """A step not fetched yet."""

    step: int
    epoch: int
    lr: float
    flat: Tensor
    audited: bool


class Ledger:
    """Collects measurements on the device and fetches them in blocks: one copy a block."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = list(tasks)
        self.waiting: list[_Waiting] = []
        count = len(self.tasks)
        self.sums = torch.zeros(len(SUMS) + count, count, dtype=torch.float64)
        """Over the epoch's steps so far: what SUMS names, then the cosines [K, K]; part of the
        run's state."""
        self.count = 0
        """The epoch's steps so far; part of the run's state."""
        self.since = time.perf_counter()

    def begin_epoch(self) -> None:
        """Forget the last epoch's sums."""
        self.sums.zero_()
        self.count = 0

    def start_clock(self) -> None:
        """What passed until now belongs to no step."""
        self.since = time.perf_counter()

    def collect(self, step: int, epoch: int, lr: float, measured: Measured) -> None:
        """Keep a step's measurements, on the device."""
        audit = measured.audit
        parts = [
            measured.losses,
            measured.originals,
            measured.weights,
            measured.head_norms,
            audit if audit is not None else torch.zeros_like(measured.losses),
            measured.gram.flatten(),
            torch.stack([measured.skipped, measured.halted]),
        ]
        self.waiting.append(_Waiting(step, epoch, lr, torch.cat(parts), audit is not None))

    def fetch(self) -> Iterator[Step]:
        """Events of the steps since the last fetch; raises NotFinite at the first halted one."""
        if not self.waiting:
            return
        rows = torch.stack([w.flat for w in self.waiting]).cpu().double()
        step_ms = (time.perf_counter() - self.since) * 1e3 / len(self.waiting)
        waiting, self.waiting = self.waiting, []
        block = _Block(rows, len(self.tasks))
        events, summed = block.fields(), block.summed()
        for i, at in enumerate(waiting):
            if block.halted[i]:
                raise NotFinite(at.step, block.culprit(i, self.tasks))
            if not block.skipped[i]:
                self.sums += summed[i]
                self.count += 1
            yield self._event(at, events[i], step_ms, block.cosine_min[i], block.skipped[i])
        self.start_clock()

    def _event(
        self,
        at: _Waiting,
        values: list[list[float]],
        step_ms: float,
        cosine_min: float | None,
        skipped: bool,
    ) -> Step:
        tasks = {}
        for name, row in zip(self.tasks, values, strict=True):
            tasks[name] = dict(zip(FIELDS, row, strict=True))
            if not at.audited:
                del tasks[name]["shared_grad_norm"]
        return Step(
            step=at.step,
            epoch=at.epoch,
            tasks=tasks,
            cosine_min=cosine_min,
            lr=at.lr,
            step_ms=step_ms,
            skipped=skipped,
        )

    def means(self) -> dict[str, dict[str, float]]:
        """Per task, the means over the epoch's applied steps of what SUMS names."""
        table = (self.sums[: len(SUMS)] / max(self.count, 1)).T.tolist()
        return {
            name: dict(zip(SUMS, row, strict=True))
            for name, row in zip(self.tasks, table, strict=True)
        }

    def cosines(self) -> dict[str, dict[str, float]]:
        """Per task, the mean cosines of its gradient at z with every other task's."""
        table = _short(self.sums[len(SUMS) :] / max(self.count, 1)).tolist()
        rows = zip(self.tasks, table, strict=True)
        named = {name: dict(zip(self.tasks, row, strict=True)) for name, row in rows}
        return {name: {t: c for t, c in row.items() if t != name} for name, row in named.items()}


class _Block:
    """The rows of n steps, and what follows from their Gram matrices."""

    def __init__(self, rows: Tensor, k: int) -> None:
        vectors, gram = rows[:, : 5 * k].view(-1, 5, k), rows[:, 5 * k : -2].view(-1, k, k)
        self.losses, self.originals, self.weights, self.head_norms, self.audit = vectors.unbind(1)
        self.skipped, self.halted = rows[:, -2:].bool().T.tolist()
        self.norms = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
        pull = (self.weights * self.norms).abs()
        self.shares = _ratio(pull, pull.sum(1, keepdim=True))
        # Sums, not matrix products: those may round differently from one block size to another.
        combined = (gram * self.weights[:, None]).sum(2)
        length = (self.weights * combined).sum(1, keepdim=True).clamp(min=0).sqrt()
        self.cosines = _ratio(combined, self.norms * length).clamp(-1, 1)
        between = _ratio(gram, self.norms[:, :, None] * self.norms[:, None]).clamp(-1, 1)
        between.diagonal(dim1=1, dim2=2).fill_(1.0)
        self.between = between
        self.cosine_min: list[float] | list[None] = (
            _short(between.amin((1, 2))).tolist() if k > 1 else [None] * len(rows)
        )

    def fields(self) -> list[list[list[float]]]:
        """What FIELDS names [n, K, …]."""
        columns = (
            *(self.losses, self.originals, self.weights, self.norms),
            *(self.shares, self.head_norms, self.cosines, self.audit),
        )
        values: list[list[list[float]]] = _short(torch.stack(columns, 2)).tolist()
        return values

    def summed(self) -> Tensor:
        """What SUMS names [n, …, K]."""
        pulls = (self.weights * self.norms, self.weights * self.head_norms)
        named = torch.stack([self.weights, self.norms, self.shares, self.cosines, *pulls], 1)
        return torch.cat([named, self.between], 1)

    def culprit(self, i: int, tasks: Sequence[str]) -> str:
        """What is not finite in step i of the block, and of which task."""
        for what, values in (
            ("loss", self.losses),
            ("gradient at the head", self.head_norms),
            ("gradient at z", self.norms),
            ("weight", self.weights),
        ):
            for name, value in zip(tasks, values[i].tolist(), strict=True):
                if not math.isfinite(value):
                    return f"the {what} of task {name} is {value}"
        return "the gradient of a parameter is not finite"


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0: a task without gradient has no share and no direction."""
    return torch.where(b > 0, a / b, 0.0)


def _short(values: Tensor) -> Tensor:
    """float64 to 7 significant digits: float32 holds no more, and they take half the time to write.

    What is not finite stays as it is.
    """
    exponent = values.abs().clamp(min=1e-300).log10().floor()
    unit = torch.pow(10.0, 6 - exponent)
    return torch.where(values.isfinite(), torch.round(values * unit) / unit, values)
