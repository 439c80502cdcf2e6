"""Several processes that train one network, each on a device of its own and on its rows of a batch.

A rank's losses are means over its own rows, times its share of the batch: sums over the ranks are
then the means over the whole batch. Gram matrix, losses and gradients are summed, so that every
rank has the same ones and makes the same update. torch's DistributedDataParallel does not fit:
heads and trunk have a backward each, and between the two stand weights that need all ranks' Gram
matrix. A process alone does none of this.

Collectives go through gloo for tensors on the CPU, through NCCL for those on a GPU.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from job.faults import Fault, InputError
from job.torchrun import under_torchrun

Value = TypeVar("Value")
PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others: rank 0 reads the data, asks the store. A step that hangs is
the supervisor's matter, a rank that died is noticed at once."""
PR_SET_PDEATHSIG = 1


class Lost(RuntimeError):
    """Another rank has ended, or does not answer."""


class Share(NamedTuple):
    """A rank's rows `first` to `last` (exclusive) of the `of` rows of a batch."""

    first: int
    last: int
    of: int

    @property
    def rows(self) -> slice:
        """What to compute: at least one row, for no network takes a batch without any."""
        return slice(self.first, max(self.last, self.first + 1))

    @property
    def weight(self) -> float:
        """Of this rank's means in those of the batch: 0 where it has no rows."""
        return (self.last - self.first) / self.of


class Ranks(NamedTuple):
    """Who this process is among those that train together. Raises Lost where one has gone."""

    rank: int = 0
    world: int = 1
    """How many there are."""
    local: int = 0
    """Rank within this machine."""

    def share(self, n: int) -> Share:
        """Its part of n rows; the parts follow each other and differ by one row at most."""
        return Share(n * self.rank // self.world, n * (self.rank + 1) // self.world, n)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type and device by their sums over the ranks, in one message."""
        if self.world == 1:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        with _reaching():
            dist.all_reduce(flat)
        parts = flat.split([t.numel() for t in tensors])
        pairs = zip(parts, tensors, strict=True)
        torch._foreach_copy_(list(tensors), [part.view_as(t) for part, t in pairs])

    def agree(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; does not wait for the device."""
        if self.world == 1:
            return flag
        any_set = torch.tensor(int(flag))
        with _reaching():
            dist.all_reduce(any_set, dist.ReduceOp.MAX)
        return bool(any_set)

    def broadcast(self, value: Value | None = None) -> Value | None:
        """Rank 0's value, on every rank; what the others give does not matter."""
        if self.world == 1:
            return value
        values = [value]
        with _reaching():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]


ALONE = Ranks()


def join(environment: Mapping[str, str], device: torch.device) -> Ranks:
    """Meet the other ranks, where torchrun started this process; "cuda" then is this rank's GPU.

    The process then does not outlive torchrun. Raises InputError where the machine has fewer GPUs
    than ranks, and Lost.
    """
    if not under_torchrun(environment):
        return ALONE
    if sys.platform == "linux":  # a killed torchrun ends nobody by itself
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    local = int(environment["LOCAL_RANK"])
    backend = "gloo"
    if device.type == "cuda":
        _take_gpu(local, int(environment["LOCAL_WORLD_SIZE"]))
        backend = "cpu:gloo,cuda:nccl"
    with _reaching():
        dist.init_process_group(backend, timeout=PATIENCE)
    return Ranks(dist.get_rank(), dist.get_world_size(), local)


def _take_gpu(local: int, wanted: int) -> None:
    if (here := torch.cuda.device_count()) < wanted:
        rule, remedy = f"torch finds {here} CUDA devices here", f"set it to {here}"
        raise InputError([Fault("$.resources.gpu_count", str(wanted), rule, remedy)])
    torch.cuda.set_device(local)


@contextmanager
def _reaching() -> Iterator[None]:
    """Of whatever kind a collective's error is, the others cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(f"another rank cannot be reached: {error}".splitlines()[0]) from error
