"""Ways to read random samples from shards, and what each costs.

    python -m tests.bench.reading [--gb 2] [--folder PATH]

By memory map, as it is and with its pages given back after each batch; by position, as a run reads;
and with the rows announced to the system before they are read. Medians over batches: the work of
all cores while the system has the files cached, what of them counts as memory of the process, and
the speed while they are on the disk alone (the host may cache them still).
"""

from __future__ import annotations

import argparse
import mmap
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from job.data.dataset import load
from job.data.shards.rows import Rows
from tests.bench.data import (
    BATCH,
    FEATURES,
    SHARD,
    STEPS,
    drop_cached,
    job,
    memory,
    processor,
    write,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=2.0, help="of samples")
    parser.add_argument("--folder", type=Path, help="where the shards are written for the while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        n = write(Path(name), options.gb)
        Console(width=110).print(measure_reading(Path(name), n))


def measure_reading(folder: Path, n: int) -> Table:
    """A table of ways to read batches of random samples."""
    rows = load(job("cpu"), folder).train.inputs["features"]
    table = Table(title=f"reading {BATCH} samples of 16 KiB of {n:,}", title_justify="left")
    about = ("way", "cached: ms of a core", "resident pages of the files", "MB/s from a cold disk")
    for column in about:
        table.add_column(column, justify="left" if column == "way" else "right")
    for name in ("memory map", "memory map, given back", "by position", "by position, announced"):
        drop_cached(folder)
        before = memory("RssFile")
        read = _way(name, folder, rows)
        cold = [BATCH * STEPS * FEATURES * 4e-6 / read(k)[0] for k in range(30)]
        for path in folder.iterdir():
            path.read_bytes()
        cached = [read(k)[1] for k in range(30, 90)]
        resident = f"{(memory('RssFile') - before) / 1e9:.2f} GB"
        cells = (f"{statistics.median(cached) * 1e3:.2f}", resident)
        table.add_row(name, *cells, f"{statistics.median(cold):.0f}")
        del read
    return table


def _way(name: str, folder: Path, rows: Rows) -> Callable[[int], tuple[float, float]]:
    """A way to read a batch by its number, which returns seconds, and seconds of a core."""
    maps: list[Any] = []
    if "map" in name:
        maps = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("features-*.npy"))]
    assert rows.positions is not None
    positions = rows.positions

    def by_map(index: Tensor) -> None:
        at = positions[index.numpy()]
        read = np.empty((len(at), STEPS, FEATURES), "f4")
        for shard in np.unique(at // SHARD):
            here = np.flatnonzero(at // SHARD == shard)
            read[here] = maps[shard][at[here] % SHARD]
            if "given back" in name:
                maps[shard]._mmap.madvise(mmap.MADV_DONTNEED)

    def read(k: int) -> tuple[float, float]:
        draw = torch.Generator().manual_seed(k)
        index = torch.randint(len(rows), (BATCH,), generator=draw)
        begun, worked = time.perf_counter(), processor()
        if "announced" in name:
            rows.will_need(index)
        if maps:
            by_map(index)
        else:
            rows[index]
        return time.perf_counter() - begun, processor() - worked

    return read


if __name__ == "__main__":
    main()
