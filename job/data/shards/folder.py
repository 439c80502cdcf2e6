"""A folder of shards: .npy, .safetensors, Arrow or Parquet files whose rows follow one another.

What a spec reads as features stays on disk (job.data.shards.rows); all else is read into memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from job.data.arrays import ENDINGS, Array, check_numbers
from job.data.files import check_file
from job.data.shards.cache import fetched
from job.data.shards.formats import KINDS, NPY, File, names_of, stored, whole
from job.data.shards.rows import Rows, check_files
from job.errors import Fault, InputError

NUMBER = re.compile(r"(?P<name>.*?)[-_.]?(?P<number>\d+)(-of-(?P<count>\d+))?")
"""The name of a shard: an array's or a data set's, a number, and perhaps how many there are."""
ALIKE = "write all shards alike"
MEMORY = 0.5
"""Share of the machine's memory that the arrays which are read into it may take."""


def is_folder(source: str, folder: Path) -> bool:
    """True if a path in a spec, relative to `folder`, names a folder of shards."""
    of_a_file = source.startswith("s3://") or source.lower().endswith(ENDINGS)
    return source.endswith("/") or (not of_a_file and (folder / source).is_dir())


def read_shards(
    source: str, folder: Path, wanted: set[str], texts: Collection[str], kept: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """Those of the wanted arrays that the shards hold, and the names of all that they hold.

    An array is Rows if it stays on disk, else one of numpy. source: the folder as the user wrote
    it, relative to `folder`, or s3://bucket/prefix/. texts: names of arrays that may hold texts.
    kept: names of those that stay on disk. Raises InputError.
    """
    files = _files(source, folder)
    for file in files:
        check_file(file.path, file.shown)
    if files[0].suffix == NPY:
        by_array = _by_array(files)
    else:
        _check_complete(files)
        by_array = dict.fromkeys(names_of(files[0]), files)
        for file in files[1:]:
            if absent := sorted((wanted & by_array.keys()) - set(names_of(file))):
                rule = f'{files[0].shown} has "{absent[0]}"'
                raise InputError([Fault(file.shown, "no such array", rule, ALIKE)])
    check_files(len(files), source)
    arrays: dict[str, Any] = {}
    for name in sorted(wanted & by_array.keys()):
        each = by_array[name]
        arrays[name] = (
            _on_disk(name, each) if name in kept else _in_memory(name, each, name in texts)
        )
    return check_numbers(source, arrays, texts), sorted(by_array)


# --- names --------------------------------------------------------------------------------------


def _files(source: str, folder: Path) -> list[File]:
    """The shards in a folder, in their order; raises InputError."""
    base = source.rstrip("/")
    if source.startswith("s3://"):
        found: Mapping[str, Path] = fetched(f"{base}/", tuple(KINDS))
    else:
        top = (folder / source).absolute()
        if not top.is_dir():
            remedy = "correct data.path or supply the folder"
            raise InputError([Fault(source, f"no folder at {top}", "must be a folder", remedy)])
        found = {path.relative_to(top).as_posix(): path for path in top.rglob("*.*")}
    shards = [
        File(f"{base}/{name}", path)
        for name, path in sorted(found.items(), key=lambda item: _natural(item[0]))
        if Path(name).suffix in KINDS and not Path(name).name.startswith(".")
    ]
    kinds = sorted({file.suffix for file in shards})
    if len(kinds) != 1:
        rule = f"a folder holds shards of one kind: {', '.join(KINDS)}"
        raise InputError([Fault(source, " and ".join(kinds) or "no shard", rule, "keep one kind")])
    return shards


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]


def _by_array(files: list[File]) -> dict[str, list[File]]:
    """The .npy shards of each array: NAME-00000.npy and so on, or all files of a folder NAME."""
    top = min(file.shown.count("/") for file in files)
    found: dict[str, list[File]] = {}
    for file in files:
        path = Path(file.shown)
        match = NUMBER.fullmatch(path.stem)
        numbered = match["name"] if match else path.stem
        inner = file.shown.count("/") > top or not numbered
        name = path.parent.name if inner else numbered
        found.setdefault(name, []).append(file)
    for each in found.values():
        _check_complete(each)
    return found


def _check_complete(files: list[File]) -> None:
    """Raise InputError if the shards' numbers have a gap, or are fewer than a name says.

    Numbers count if a name says of how many, or if they begin at 0 or 1; others, such as dates,
    only give the order.
    """
    matches = [NUMBER.fullmatch(Path(file.shown).stem) for file in files]
    first = matches[0]
    if first is None or None in matches:
        return  # names without numbers
    numbers = sorted({int(match["number"]) for match in matches if match})
    if not first["count"] and (numbers[0] > 1 or len(numbers) < len(files)):
        return
    begin = min(numbers[0], 1)
    end = begin + int(first["count"]) if first["count"] else numbers[-1] + 1
    if (missing := end - begin - len(numbers)) > 0:
        absent = next(k for k, n in enumerate([*numbers, end], begin) if k != n)
        number = str(absent).zfill(len(first["number"]))
        stem = first.string[: first.start("number")] + number + first.string[first.end("number") :]
        name = files[0].shown.replace(first.string + files[0].suffix, stem + files[0].suffix)
        found = f"no such file{f', and {missing - 1} more' if missing > 1 else ''}"
        rule = f"the shards are numbered from {begin} to {end - 1}"
        raise InputError([Fault(name, found, rule, "supply it, or number the shards anew")])


# --- arrays -------------------------------------------------------------------------------------


def _on_disk(name: str, files: list[File]) -> Rows:
    """An array whose rows stay in the shards; raises InputError."""
    parts = [stored(file, name) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part.kind != parts[0].kind:
            where, rule = f"{file.shown}, array {name}", f"{files[0].shown} has {parts[0].kind}"
            raise InputError([Fault(where, part.kind, rule, ALIKE)])
    first = parts[0]
    pieces = [piece for part in parts for piece in part.pieces if piece.rows]
    return first._replace(pieces=pieces).rows


def _in_memory(name: str, files: list[File], texts: bool) -> Array:
    """An array as a whole; raises InputError."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY
    parts: list[Array] = []
    for file in files:
        parts.append(whole(file, name, texts))
        where = f"{file.shown}, array {name}"
        if parts[-1].shape[1:] != parts[0].shape[1:]:
            found, rule = (f"shape {list(part.shape)}" for part in (parts[-1], parts[0]))
            rule = f"{files[0].shown} has {rule}"
            raise InputError([Fault(where, found, rule, ALIKE)])
        if (taken := sum(part.nbytes for part in parts)) > size:
            found, rule = f"{taken / 1e9:.1f} GB up to here", "only features stay on disk"
            remedy = (
                f"targets, weights and marks may take {size / 1e9:.1f} GB here; make them smaller"
            )
            raise InputError([Fault(where, found, rule, remedy)])
    return np.concatenate(parts)
