"""Training of one network by several processes (ranks), each with its own device and rows.

A rank's losses are means over its own rows, times its share of the batch, so their sums over the
ranks are means over the whole batch. Gram matrix, losses and gradients are summed; every rank then
has the same values and makes the same update. torch's DistributedDataParallel does not fit: heads
and trunk have a backward each, and the weights between the two need the Gram matrix of all ranks.
A single process does none of this.

Collectives use gloo for tensors on the CPU and NCCL for tensors on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from job.background import die_with_parent
from job.env import under_torchrun
from job.errors import Fault, InputError

Value = TypeVar("Value")
PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others, as rank 0 alone reads data and store. The supervisor ends
a step that hangs, and a rank that dies is noticed at once."""


class Lost(RuntimeError):
    """Another rank has ended or does not answer."""


class Share(NamedTuple):
    """A rank's rows `first` to `last` (exclusive) of a batch of `of` rows."""

    first: int
    last: int
    of: int

    @property
    def rows(self) -> slice:
        """The rows to compute: at least one, as a network cannot take an empty batch."""
        return slice(self.first, max(self.last, self.first + 1))

    @property
    def weight(self) -> float:
        """The weight of this rank's means in the batch's means; 0 if it has no rows."""
        return (self.last - self.first) / self.of


class Ranks(NamedTuple):
    """The place of this process among the ranks. Methods that communicate raise Lost."""

    rank: int = 0
    world: int = 1
    """Number of ranks."""
    local: int = 0
    """Rank on this machine."""

    def share(self, n: int) -> Share:
        """The part of n rows of this rank; parts are consecutive and differ by at most one row."""
        return Share(n * self.rank // self.world, n * (self.rank + 1) // self.world, n)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over the ranks, in one message; of one type and device.

        No message is sent for no tensors.
        """
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        with _raising_lost():
            dist.all_reduce(flat)
        parts = flat.split([t.numel() for t in tensors])
        pairs = zip(parts, tensors, strict=True)
        torch._foreach_copy_(list(tensors), [part.view_as(t) for part, t in pairs])

    def any(self, flag: bool) -> bool:
        """True if the flag is set on any rank; does not wait for the device."""
        if self.world == 1:
            return flag
        any_set = torch.tensor(int(flag))
        with _raising_lost():
            dist.all_reduce(any_set, dist.ReduceOp.MAX)
        return bool(any_set)

    def broadcast(self, value: Value | None = None) -> Value | None:
        """Rank 0's value, on every rank; the other ranks' values are ignored."""
        if self.world == 1:
            return value
        values = [value]
        with _raising_lost():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]


ALONE = Ranks()


def join(environment: Mapping[str, str], device: torch.device) -> Ranks:
    """Connect to the other ranks if torchrun started this process, else return ALONE.

    After that "cuda" is this rank's GPU, and the process ends with torchrun. Raises InputError if
    the machine has fewer GPUs than ranks, and Lost.
    """
    if not under_torchrun(environment):
        return ALONE
    die_with_parent(os.getppid())  # a killed torchrun does not end its processes by itself
    local = int(environment["LOCAL_RANK"])
    backend = "gloo"
    if device.type == "cuda":
        _take_gpu(local, int(environment["LOCAL_WORLD_SIZE"]))
        backend = "cpu:gloo,cuda:nccl"
    with _raising_lost():
        dist.init_process_group(backend, timeout=PATIENCE)
    return Ranks(dist.get_rank(), dist.get_world_size(), local)


def _take_gpu(local: int, wanted: int) -> None:
    if (here := torch.cuda.device_count()) < wanted:
        rule, remedy = f"torch finds {here} CUDA devices here", f"set it to {here}"
        raise InputError([Fault("$.resources.gpu_count", str(wanted), rule, remedy)])
    torch.cuda.set_device(local)


@contextmanager
def _raising_lost() -> Iterator[None]:
    """Raise Lost for any error of a collective."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(f"another rank cannot be reached: {error}".splitlines()[0]) from error
