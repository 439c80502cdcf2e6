"""Turns the steps' measurements on the device into step events and epoch means on the host."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from job.events import Step
from job.train.step import Measured

SUMS = ("weight", "grad_norm", "grad_share", "cosine", "pull", "head_pull")
"""Averaged over an epoch's steps, as are the cosines between the tasks' gradients."""
FIELDS = (
    *("loss", "loss_original", "weight", "grad_norm"),
    *("grad_share", "head_grad_norm", "cosine", "shared_grad_norm"),
)
"""A task's fields in a step event."""


class NotFinite(ArithmeticError):
    """A loss or gradient was not finite; the update was not applied."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: {what}; the update was not applied")
        self.step = step


class _Waiting(NamedTuple):
    """A step whose measurements are still on the device."""

    step: int
    epoch: int
    lr: float
    flat: Tensor
    audited: bool
    held: bool
    """Whether its gradients may be those of an earlier step."""


class Ledger:
    """Collects measurements on the device and fetches them in blocks, with one copy a block."""

    def __init__(
        self,
        tasks: Sequence[str],
        clock: Callable[[], float] = time.perf_counter,
        partial: Sequence[bool] = (),
        at: Literal["z", "parameters"] = "z",
    ) -> None:
        """Collect for these tasks.

        partial: for each task, whether elements may lack a label; left out: none does. at: where
        gradients are measured.
        """
        self.tasks, self.clock = list(tasks), clock
        self.partial = list(partial) if any(partial) else []
        self.at: Literal["parameters"] | None = "parameters" if at == "parameters" else None
        """As events have it: None is z."""
        self.waiting: list[_Waiting] = []
        count = len(self.tasks)
        self.sums = torch.zeros(len(SUMS) + count, count, dtype=torch.float64)
        """Sums over the epoch's steps so far: those of SUMS, then the cosines [K, K]; part of the
        run's state."""
        self.count = 0
        """Number of the epoch's steps so far; part of the run's state."""
        self.since = clock()

    def begin_epoch(self) -> None:
        """Reset the sums."""
        self.sums.zero_()
        self.count = 0

    def start_clock(self) -> None:
        """Start the clock of `step_ms`: the time before belongs to no step."""
        self.since = self.clock()

    def collect(self, step: int, epoch: int, lr: float, measured: Measured) -> None:
        """Store a step's measurements, on the device."""
        audit = measured.audit
        parts = [
            measured.losses,
            measured.originals,
            measured.weights,
            measured.head_norms,
            audit if audit is not None else torch.zeros_like(measured.losses),
            measured.gram.flatten(),
            *([] if measured.labelled is None else [measured.labelled]),
            torch.stack([measured.skipped, measured.halted]),
            *([] if (since := measured.measured_at) is None else [since[None]]),
        ]
        flat, held = torch.cat(parts), measured.measured_at is not None
        self.waiting.append(_Waiting(step, epoch, lr, flat, audit is not None, held))

    def fetch(self) -> Iterator[Step]:
        """Yield events of the steps since the last fetch. Raises NotFinite at a halted step."""
        if not self.waiting:
            return
        rows = torch.stack([w.flat for w in self.waiting]).cpu().double()
        step_ms = (self.clock() - self.since) * 1e3 / len(self.waiting)
        waiting, self.waiting = self.waiting, []
        held = waiting[0].held
        block = _Block(rows[:, :-1] if held else rows, len(self.tasks))
        measured_at = rows[:, -1].long().tolist() if held else [at.step for at in waiting]
        events, summed = block.fields(), block.summed()
        for i, at in enumerate(waiting):
            if block.halted[i]:
                raise NotFinite(at.step, block.culprit(i, self.tasks))
            if not block.skipped[i]:
                self.sums += summed[i]
                self.count += 1
            labelled = self._labelled(block.labelled[i])
            event = self._event(
                at, events[i], labelled, step_ms, block.cosine_min[i], block.skipped[i]
            )
            old = measured_at[i] != at.step
            yield event.model_copy(update={"measured_at": measured_at[i]}) if old else event
        self.start_clock()

    def _labelled(self, counts: list[int]) -> dict[str, int]:
        """Of counts [K], or none, those of the tasks that may lack labels."""
        named = zip(self.tasks, counts, self.partial, strict=False)
        return {name: count for name, count, partial in named if partial}

    def _event(
        self,
        at: _Waiting,
        values: list[list[float]],
        labelled: dict[str, int],
        step_ms: float,
        cosine_min: float | None,
        skipped: bool,
    ) -> Step:
        tasks: dict[str, dict[str, float]] = {}
        for name, row in zip(self.tasks, values, strict=True):
            tasks[name] = dict(zip(FIELDS, row, strict=True))
            if not at.audited:
                del tasks[name]["shared_grad_norm"]
        for name, count in labelled.items():
            tasks[name]["labelled"] = count
        return Step(
            step=at.step,
            epoch=at.epoch,
            tasks=tasks,
            cosine_min=cosine_min,
            lr=at.lr,
            step_ms=step_ms,
            skipped=skipped,
            at=self.at,
        )

    def means(self) -> dict[str, dict[str, float]]:
        """Per task, the means of SUMS over the epoch's applied steps."""
        table = (self.sums[: len(SUMS)] / max(self.count, 1)).T.tolist()
        return {
            name: dict(zip(SUMS, row, strict=True))
            for name, row in zip(self.tasks, table, strict=True)
        }

    def cosines(self) -> dict[str, dict[str, float]]:
        """Per task, the mean cosines of its gradient at z with every other task's."""
        table = _seven_digits(self.sums[len(SUMS) :] / max(self.count, 1)).tolist()
        rows = zip(self.tasks, table, strict=True)
        named = {name: dict(zip(self.tasks, row, strict=True)) for name, row in rows}
        return {name: {t: c for t, c in row.items() if t != name} for name, row in named.items()}


class _Block:
    """The measurements of n steps, with the quantities that follow from their Gram matrices."""

    def __init__(self, rows: Tensor, k: int) -> None:
        vectors, rest = rows[:, : 5 * k].view(-1, 5, k), rows[:, 5 * k : -2]
        gram, labelled = rest[:, : k * k].view(-1, k, k), rest[:, k * k :]
        self.labelled: list[list[int]] = labelled.long().tolist()
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
            _seven_digits(between.amin((1, 2))).tolist() if k > 1 else [None] * len(rows)
        )

    def fields(self) -> list[list[list[float]]]:
        """The values of FIELDS [n, K, …]."""
        columns = (
            *(self.losses, self.originals, self.weights, self.norms),
            *(self.shares, self.head_norms, self.cosines, self.audit),
        )
        values: list[list[list[float]]] = _seven_digits(torch.stack(columns, 2)).tolist()
        return values

    def summed(self) -> Tensor:
        """The values of SUMS, then the cosines [n, …, K]."""
        pulls = (self.weights * self.norms, self.weights * self.head_norms)
        named = torch.stack([self.weights, self.norms, self.shares, self.cosines, *pulls], 1)
        return torch.cat([named, self.between], 1)

    def culprit(self, i: int, tasks: Sequence[str]) -> str:
        """The first value of step i in the block that is not finite, in words."""
        for what, values in (
            ("loss", self.losses),
            ("gradient at the head", self.head_norms),
            ("gradient at the shared representation", self.norms),
            ("weight", self.weights),
        ):
            for name, value in zip(tasks, values[i].tolist(), strict=True):
                if not math.isfinite(value):
                    return f"the {what} of task {name} is {value}"
        return "the gradient of a parameter is not finite"


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, or 0 if b is 0: a task without gradient has no share and no direction."""
    return torch.where(b > 0, a / b, 0.0)


def _seven_digits(values: Tensor) -> Tensor:
    """The values [float64] rounded to 7 significant digits, as many as float32 holds.

    They take half the time to write. Values that are not finite stay as they are.
    """
    exponent = values.abs().clamp(min=1e-300).log10().floor()
    unit = torch.pow(10.0, 6 - exponent)
    return torch.where(values.isfinite(), torch.round(values * unit) / unit, values)
