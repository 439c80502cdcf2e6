"""Probes of several specs at the same time, each in a process of its own.

They measure the same, to the last bit, as one after the other: a probe depends on its spec, on the
data and on the number of threads alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from job.compare.workers import submit, workers
from job.data.dataset import Dataset, load
from job.data.shards.rows import Rows
from job.diagnose.probe import Probe, probe, probe_inputs
from job.run.start_from import with_start
from job.spec import JobSpec
from job.train.trainer import Trainer

WORTH = 5.0
"""Seconds that a probe must take for workers to be worth their start, as each of them loads PyTorch
and the data."""


def fitting(cores: int, device: torch.device, seconds: float) -> int:
    """Probes to run at the same time on so many cores, if one takes so many seconds.

    One needs as many cores as this process has threads.
    """
    if device.type != "cpu" or seconds < WORTH:
        return 1
    return max(cores // torch.get_num_threads(), 1)


class SideBySide(ExitStack):
    """Runs probes ahead in workers, until they are asked for; a context that ends the workers.

    spec: the original one, by which a worker loads the data as `data` was. at_once: number of
    workers; 1: none. until: as of `probe`.
    """

    def __init__(self, spec: JobSpec, data: Dataset, at_once: int, until: float) -> None:
        super().__init__()
        self._data, self._at_once, self._until = data, at_once, until
        content = digest(data) if at_once > 1 else b""
        self._source = pickle.dumps(spec), data.folder, torch.get_num_threads(), content
        self._pool: ProcessPoolExecutor | None = None
        self._begun: dict[str, Future[bytes]] = {}

    def begin(self, specs: Sequence[JobSpec]) -> int:
        """Begin to probe specs; returns how many at the same time: 1 if none has begun."""
        together = min(self._at_once, len(specs))
        if together < 2:
            return 1
        with suppress(BrokenProcessPool, OSError):  # one was killed, or none can start
            if self._pool is None:
                self._pool = self.enter_context(workers(self._at_once))
            for spec in specs:
                job = submit(self._pool, _probe, spec, *self._source, self._until)
                self._begun[spec.canonical()] = job
            return together
        return 1

    def take(self, spec: JobSpec) -> Probe | None:
        """The probe of a spec, once it ends; None if it has not begun, or fails in its worker."""
        begun = self._begun.pop(spec.canonical(), None)
        if begun is None:
            return None
        try:
            found: Probe = pickle.loads(begun.result())  # noqa: S301 - it comes from a worker
        except Exception:  # it was killed, or the same goes wrong when it is probed again here
            return None
        found.data = probe_inputs(spec, self._data)[1]
        return found


def digest(data: Dataset) -> bytes:
    """Of all that a dataset holds in memory: what a probe reads, but for features on disk."""
    found = blake2b()
    for split in (data.train, data.validation):
        for part in (split.inputs, split.targets, split.weights):
            _add(found, part)
    _add(found, data.pretrained)
    return found.digest()


def _add(found: blake2b, tensors: Mapping[str, Tensor | Rows]) -> None:
    for name, x in sorted(tensors.items()):
        if isinstance(x, Tensor):
            found.update(f"{name} {x.dtype} {list(x.shape)}".encode())
            found.update(x.flatten().contiguous().view(torch.uint8).numpy().data)


def _probe(
    spec: JobSpec, source: bytes, folder: Path, threads: int, content: bytes, until: float
) -> bytes:
    """In a worker: the probe of a spec, without its data; pickled, as torch would share memory."""
    data = _loaded(source, folder, threads, content)
    found = probe(Trainer(*probe_inputs(spec, data)), until=until)
    del found.data
    return pickle.dumps(found)


@cache
def _loaded(source: bytes, folder: Path, threads: int, content: bytes) -> Dataset:
    """In a worker, once: its number of threads set, and the data of the original spec.

    Raises ValueError if that is not the data under diagnosis any more, whose digest is `content`.
    """
    with suppress(OSError):  # Linux: where memory runs out, the diagnosis itself is to go on
        Path("/proc/self/oom_score_adj").write_text("1000")
    torch.set_num_threads(threads)
    spec: JobSpec = pickle.loads(source)  # noqa: S301 - it comes from the diagnosis
    data = with_start(load(spec, folder), spec, None)
    if digest(data) != content:
        raise ValueError("the data has changed since the diagnosis read it")
    return data
