"""Data larger than memory: what reading shards from disk costs beside the same data in memory.

    python -m tests.bench.data [--gb 2] [--full] [--rounds 7] [--folder PATH] [--cold]

First the memory: one process trains an epoch on all the shards (load, checks, statistics, alarms,
steps, evaluation) while the kernel refuses it more than 1.5 GB of memory of its own; it reports the
most that it held, with and without what is shared with files. --full: 20 GB of samples.

Then the throughput: the sides below take the same steps on the same rows in the same seeded order,
in turns; a figure is the median over the rounds of a side's samples per second over those of the
data in memory in the same round. In memory against itself shows what is noise. Beside it stands
the work of all cores for a sample, which other work of the machine lengthens less. Data in memory
are the first shards, as many as a quarter of the machine's free memory holds; the other sides read
the same rows. --cold: the shards are put out of the system's cache before each round of a side.

The limit is 0.95 for shards, where the disk allows. A side with Lightning runs where that imports.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Samples

from job import spec
from job.data.dataset import Dataset, Split, load
from job.spec.read import parse_spec
from job.train.evaluate import batches
from job.train.trainer import Trainer
from tests.support.command import ROOT

STEPS, FEATURES, SHARD = 64, 64, 16384
"""Time steps and features of a sample, 16 KiB; samples of a shard, 256 MiB."""
BATCH, LIMIT, MEMORY = 256, 0.95, 1.5e9
MEMORY_SIDE, AGAIN, SHARDS = "in memory", "in memory, again", "shards"
LOADER, LIGHTNING = "DataLoader, {} workers", "Lightning, {} workers"


def write(folder: Path, gigabytes: float) -> int:
    """Write the samples as shards of float32; returns their number."""
    count = max(2, round(gigabytes * 1e9 / (SHARD * STEPS * FEATURES * 4)))
    x = np.random.default_rng(0).standard_normal((SHARD, STEPS, FEATURES), dtype="f4")
    for k in range(count):
        x[:, 0] += 0.01  # no copies
        np.save(folder / f"features-{k:05}.npy", x)
        np.save(folder / f"level-{k:05}.npy", x[:, :, 0].mean(1))
        with (folder / f"features-{k:05}.npy").open("rb") as file:
            os.fsync(file.fileno())
    return count * SHARD


def job(device: str) -> spec.JobSpec:
    """A small network, so that the data weigh."""
    tasks = [{"name": "level", "level": "sample", "loss": {"kind": "mse"}}]
    return parse_spec(
        json.dumps(
            {
                "name": "data",
                "data": {"kind": "arrays", "path": "./", "validation": 0.02},
                "model": {"kind": "mlp", "hidden": [64]},
                "tasks": tasks,
                "train": {"epochs": 1, "batch_size": BATCH, "device": device, "threads": 1},
            }
        )
    )


# --- memory -------------------------------------------------------------------------------------


def train_within(folder: Path, device: str) -> dict[str, float]:
    """Train an epoch in this process, in MEMORY bytes of its own; what it held and took."""
    if device == "cpu":  # CUDA maps more than it takes
        resource.setrlimit(resource.RLIMIT_DATA, (int(MEMORY), int(MEMORY)))
    begun, most = time.perf_counter(), 0.0

    def held(*_: Any) -> None:
        nonlocal most
        most = max(most, memory("RssAnon"))

    data = load(job(device), folder)
    held()
    training = Trainer(job(device), data)
    held()
    ready = time.perf_counter() - begun
    training.run(held, lambda: None, lambda: False)
    took = time.perf_counter() - begun
    return {"anon": most, "all": memory("VmHWM"), "ready": ready, "took": took}


def memory(name: str) -> float:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(name))


# --- throughput ---------------------------------------------------------------------------------


class Mapped(Samples[tuple[Tensor, Tensor]]):
    """What one writes for a DataLoader: a memory map for each shard, a sample at a time."""

    def __init__(self, folder: Path, positions: Sequence[int]) -> None:
        paths = sorted(folder.glob("features-*.npy"))
        self.x = [np.load(path, mmap_mode="r") for path in paths]
        levels = [np.load(folder / f"level-{path.stem[-5:]}.npy") for path in paths]
        self.y, self.positions = np.concatenate(levels), positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        shard, row = divmod(self.positions[i], SHARD)
        return torch.from_numpy(self.x[shard][row].copy()), torch.tensor(
            [self.y[shard * SHARD + row]]
        )


class Bench:
    """The sides, on one network that all of them train."""

    def __init__(self, folder: Path, data: Dataset, first: int, workers: int, device: str) -> None:
        self.folder, self.workers = folder, workers
        self.training = Trainer(job(device), replace(data, train=_some(data.train, 0, 512)))
        self.device = self.training.device
        self.on_disk = _some(data.train, 0, first)
        whole = {name: x[:] for name, x in self.on_disk.inputs.items()}
        self.in_memory = replace(self.on_disk, inputs=whole)
        self.positions = data.train.inputs["features"].positions[:first].tolist()

    def step(self, inputs: dict[str, Tensor], targets: list[Tensor]) -> None:
        """A step of training; the same for all sides."""
        self.training.stepper(inputs, targets, self.training.optimizer)

    def ours(self, split: Split) -> Callable[[Tensor], None]:
        """The steps of a split's batches in an order, as a run takes them."""

        def epoch(order: Tensor) -> None:
            for batch in batches(split, order, BATCH, self.training.losses, self.device):
                self.step(batch.inputs, batch.targets)

        return epoch

    def loader(self, order: Tensor) -> DataLoader[Any]:
        """torch's own, with workers, in the same order."""
        dataset = Mapped(self.folder, [self.positions[i] for i in order.tolist()])
        pinned = self.device.type == "cuda"
        return DataLoader(dataset, BATCH, num_workers=self.workers, pin_memory=pinned)

    def by_loader(self, order: Tensor) -> None:
        """The steps with a plain DataLoader."""
        for x, y in self.loader(order):
            self.step({"features": x.to(self.device, non_blocking=True)}, [y.to(self.device)])

    def by_lightning(self) -> Callable[[Tensor], None] | None:
        """The steps in Lightning's loop with that DataLoader; None if it is not installed."""
        try:
            lightning: Any = importlib.import_module("lightning.pytorch")
        except ImportError:
            return None
        step, device = self.step, self.device

        class Module(lightning.LightningModule):  # type: ignore[misc]  # of type Any
            automatic_optimization = False

            def training_step(self, batch: Any, _: int) -> None:
                x, y = batch
                step({"features": x}, [y])

            def configure_optimizers(self) -> None:
                return None

        def epoch(order: Tensor) -> None:
            quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
            quiet["enable_model_summary"] = False
            accelerator = "gpu" if device.type == "cuda" else "cpu"
            fit = lightning.Trainer(max_epochs=1, accelerator=accelerator, devices=1, **quiet)
            fit.fit(Module(), self.loader(order))

        return epoch


def _some(split: Split, first: int, last: int) -> Split:
    """Consecutive samples of a split, not read."""
    at = np.arange(first, last)
    return replace(
        split,
        inputs={name: x.take(at) for name, x in split.inputs.items()},
        targets={name: y[first:last] for name, y in split.targets.items()},
    )


def drop_cached(folder: Path) -> None:
    """Put the shards out of the system's cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Taken(NamedTuple):
    """What a side took in a round."""

    speed: float
    """Samples per second."""
    work: float
    """Seconds of a core for a sample, the workers' too."""


def processor() -> float:
    """Seconds of a core that this process and its ended children have taken."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


def rounds(
    sides: dict[str, Callable[[Tensor], None]],
    count: int,
    rows: int,
    size: int,
    prepare: Callable[[], None],
) -> Iterator[dict[str, Taken]]:
    """What the sides took, round after round, in an order that turns.

    Each round takes `size` of the rows at random.
    """
    names = list(sides)
    for k in range(count + 1):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(k))[:size]
        taken = {}
        for name in names[k % len(names) :] + names[: k % len(names)]:
            if name not in (MEMORY_SIDE, AGAIN):
                prepare()
            begun, worked = time.perf_counter(), processor()
            sides[name](order)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - begun
            taken[name] = Taken(size / seconds, (processor() - worked) / size)
        if k > 0:  # the first is warm-up
            yield taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=2.0, help="of samples")
    parser.add_argument("--full", action="store_true", help="20 GB of samples")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=100, help="of a side in a round, at most")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where the shards are written for the while")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--within", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within is not None:
        print(json.dumps(train_within(options.within, options.device)))
        return
    size = 20.0 if options.full else options.gb
    free = shutil.disk_usage(options.folder or tempfile.gettempdir()).free
    if free < 1.2e9 * size:
        sys.exit(f"{size:g} GB of samples and {free / 1e9:.1f} GB free: name another --folder")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        n = write(folder, size)
        table = measure_memory(folder, n, options.device)
        Console(width=110).print(table, measure_throughput(folder, options), sep="\n")


def measure_memory(folder: Path, n: int, device: str) -> Table:
    """A table of what an epoch holds."""
    command = [sys.executable, "-m", "tests.bench.data", "--within", str(folder)]
    drop_cached(folder)
    ran = subprocess.run(
        [*command, "--device", device], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    held = json.loads(ran.stdout.splitlines()[-1])
    size = n * STEPS * FEATURES * 4
    table = Table(title=f"an epoch on {size / 1e9:.1f} GB of samples, the cache empty at first")
    table.title_justify = "left"
    for column in (
        "own memory (limit 1.5 GB)",
        "all resident memory",
        "until step 1, s",
        "in all, s",
    ):
        table.add_column(column, justify="right")
    sizes = (f"{held[key] / 1e9:.2f} GB" for key in ("anon", "all"))
    table.add_row(*sizes, f"{held['ready']:.0f}", f"{held['took']:.0f}")
    return table


def measure_throughput(folder: Path, options: argparse.Namespace) -> Table:
    """A table of samples per second, by side."""
    data = load(job(options.device), folder)
    bytes_free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 4
    first = min(len(data.train), bytes_free // (STEPS * FEATURES * 4))
    bench = Bench(folder, data, first, options.workers, options.device)
    sides: dict[str, Callable[[Tensor], None]] = {
        MEMORY_SIDE: bench.ours(bench.in_memory),
        SHARDS: bench.ours(bench.on_disk),
        AGAIN: bench.ours(bench.in_memory),
        LOADER.format(options.workers): bench.by_loader,
    }
    if (lightning := bench.by_lightning()) is not None:
        sides[LIGHTNING.format(options.workers)] = lightning
    else:
        print("Lightning is not installed: its side is left out")
    size = min(first, options.batches * BATCH)
    prepare = (lambda: drop_cached(folder)) if options.cold else (lambda: None)
    taken = list(rounds(sides, options.rounds, first, size, prepare))
    kind = "cold" if options.cold else "cached"
    share = f"{first * STEPS * FEATURES * 4 / 1e9:.1f} GB in memory"
    table = Table(title=f"training steps, {kind} shards, {share}, medians of {len(taken)} rounds")
    table.title_justify = "left"
    about = ("side", "samples/s", f"of in memory (limit {LIMIT})", "least … most")
    for column in (*about, "µs of a core a sample", "of in memory"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for name in sides:
        ratios = [each[name].speed / each[MEMORY_SIDE].speed for each in taken]
        works = [each[name].work / each[MEMORY_SIDE].work for each in taken]
        table.add_row(
            name,
            f"{statistics.median(each[name].speed for each in taken):,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} … {max(ratios):.2f}",
            f"{statistics.median(each[name].work for each in taken) * 1e6:.0f}",
            f"{statistics.median(works):.2f}",
        )
    return table


if __name__ == "__main__":
    main()
