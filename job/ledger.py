"""From what the steps measured on the device to step events and an epoch's means on the host."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from job.events import Step, StepTask
from job.step import Measured

SUMS = ("weight", "grad_norm", "grad_share", "pull", "head_pull")
"""What is averaged over an epoch's steps."""


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
        self.sums = torch.zeros(len(SUMS), len(self.tasks), dtype=torch.float64)
        """Over the epoch's steps so far; part of the run's state."""
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
        block = torch.stack([w.flat for w in self.waiting]).cpu().double()
        step_ms = (time.perf_counter() - self.since) * 1e3 / len(self.waiting)
        waiting, self.waiting = self.waiting, []
        for at, row in zip(waiting, block, strict=True):
            yield self._event(at, _Values(row, len(self.tasks)), step_ms)
        self.start_clock()

    def _event(self, at: _Waiting, v: _Values, step_ms: float) -> Step:
        if v.halted:
            raise NotFinite(at.step, v.culprit(self.tasks))
        if not v.skipped:
            self.sums += torch.stack(
                [v.weights, v.norms, v.shares, v.weights * v.norms, v.weights * v.head_norms]
            )
            self.count += 1
        rows = torch.stack(
            [v.losses, v.originals, v.weights, v.norms, v.shares, v.head_norms, v.cosines, v.audit],
            1,
        ).tolist()
        tasks = {}
        for name, row in zip(self.tasks, rows, strict=True):
            loss, original, weight, norm, share, head, cosine, exact = row
            tasks[name] = StepTask.model_construct(
                loss=loss,
                loss_original=original,
                weight=weight,
                grad_norm=norm,
                grad_share=share,
                head_grad_norm=head,
                cosine=cosine,
                shared_grad_norm=exact if at.audited else None,
            )
        return Step.model_construct(  # built from floats of our own: nothing to validate
            step=at.step,
            epoch=at.epoch,
            tasks=tasks,
            cosine_min=v.cosine_min,
            lr=at.lr,
            step_ms=step_ms,
            skipped=v.skipped,
        )

    def means(self) -> dict[str, dict[str, float]]:
        """Per task, the means over the epoch's applied steps of what SUMS names."""
        table = (self.sums / max(self.count, 1)).T.tolist()
        return {
            name: dict(zip(SUMS, row, strict=True))
            for name, row in zip(self.tasks, table, strict=True)
        }


class _Values:
    """One step's flat row, and what follows from the Gram matrix."""

    def __init__(self, row: Tensor, k: int) -> None:
        self.losses, self.originals, self.weights, self.head_norms, self.audit = row[: 5 * k].view(
            5, k
        )
        gram = row[5 * k : 5 * k + k * k].view(k, k)
        self.skipped, self.halted = (bool(x) for x in row[-2:])
        self.gram = gram
        self.norms = gram.diagonal().clamp(min=0).sqrt()
        pull = (self.weights * self.norms).abs()
        self.shares = _ratio(pull, pull.sum())
        combined = gram @ self.weights
        length = (self.weights @ combined).clamp(min=0).sqrt()
        self.cosines = _ratio(combined, self.norms * length).clamp(-1, 1)
        between = _ratio(gram, self.norms[:, None] * self.norms).clamp(-1, 1)
        pairs = between[~torch.eye(k, dtype=torch.bool)]
        self.cosine_min = pairs.min().item() if k > 1 else None

    def culprit(self, tasks: Sequence[str]) -> str:
        """What is not finite, and of which task."""
        for what, values in (("loss", self.losses), ("gradient at z", self.norms)):
            for name, value in zip(tasks, values.tolist(), strict=True):
                if not torch.isfinite(torch.tensor(value)):
                    return f"the {what} of task {name} is {value}"
        for name, value in zip(tasks, self.head_norms.tolist(), strict=True):
            if not torch.isfinite(torch.tensor(value)):
                return f"the gradient at the head of task {name} is {value}"
        return "the combined gradient is not finite"


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0: a task without gradient has no share and no direction."""
    return torch.where(b > 0, a / b, 0.0)
