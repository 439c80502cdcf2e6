"""Arrays written as a folder of shards, in every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from numpy.typing import NDArray

FORMATS = ("npy", "safetensors", "arrow", "parquet")


def write_shards(
    folder: Path,
    arrays: Mapping[str, NDArray[Any]],
    form: str,
    cuts: Sequence[int],
    first: int = 0,
) -> None:
    """Write rows cuts[k] to cuts[k + 1] of the arrays as shard first + k."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, (start, end) in enumerate(pairwise(cuts), first):
        part = {name: np.ascontiguousarray(x[start:end]) for name, x in arrays.items()}
        path = folder / f"part-{k:05}.{form}"
        if form == "npy":
            for name, x in part.items():
                np.save(folder / f"{name}-{k:05}.npy", x)
        elif form == "safetensors":
            safetensors.numpy.save_file(part, path)
        else:
            table = pa.table({name: fixed_lists(x) for name, x in part.items()})
            if form == "parquet":
                pq.write_table(table, path, row_group_size=6)
            else:
                with pa.ipc.new_file(path, table.schema) as writer:
                    writer.write_table(table, max_chunksize=6)


def fixed_lists(x: NDArray[Any]) -> pa.Array:
    """An array [N, …] as nested lists of fixed sizes."""
    column = pa.array(x.reshape(-1))
    for size in x.shape[:0:-1]:
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column
