"""What a file of arrays or a table holds of what a spec reads, checked value by value."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.data.arrays import TABLES, check_ending, read_arrays
from job.data.encoding.codes import Real, empties, odd_codes
from job.data.encoding.encoders import (
    Stored,
    common_positions,
    count,
    real_of,
    real_positions,
    shaped,
    value_faults_of,
)
from job.data.shards.folder import is_folder, read_shards
from job.data.shards.rows import Rows
from job.data.tables.columns import cell_text, matching, open_table, parse_column, parse_known
from job.data.tables.table import Table
from job.data.values import Place
from job.errors import Fault, InputError
from job.spec import CATEGORICAL, FEATURES, Arrays, Input, JobSpec, SplitBy

Array = NDArray[Any]
Known = Mapping[str, bool]
"""Columns that training has read, by name: true for one of texts, false for one of numbers."""
NOTHING: Known = MappingProxyType({})


@dataclass
class Content:
    """What a file holds of what the spec reads."""

    place: Place
    inputs: dict[str, Stored]
    """By name, arrays [N, …, F], or the columns [N] of a table."""
    targets: dict[str, Array]
    names: Sequence[str]
    marks: Array | None
    """[N] what data.split looks at; None if it looks at nothing."""
    real: Real = None
    """[N, …] true at the positions of a sample that are no padding; None: all of them."""

    def __len__(self) -> int:
        return count(next(iter(self.inputs.values())))


def read_content(
    spec: JobSpec, data: Arrays, source: str, folder: Path, known: Known = NOTHING
) -> Content:
    """What a file holds; known: of a table. Raises InputError."""
    if is_table(data, source, folder):
        return content_of_table(spec, data, open_table(source, folder), known)
    return _read_arrays(spec, data, source, folder)


def is_table(data: Arrays, source: str, folder: Path) -> bool:
    """True if a file is a table of cells; raises InputError if it is neither that nor arrays."""
    if not is_folder(source, folder):
        check_ending(source)
    listed = [name for name, each in data.named.items() if not isinstance(each.source, str)]
    of_cells = source.lower().endswith(TABLES) or bool(listed)
    if of_cells and not source.lower().endswith((*TABLES, ".parquet")):
        found = "a folder" if is_folder(source, folder) else f"a {Path(source).suffix} file"
        rule = f"{listed[0]} names columns of a table, one file: .csv, .csv.gz or .parquet"
        remedy = "write one table of all rows, or name one array in place of the columns"
        raise InputError([Fault("$.data.path", found, rule, remedy)])
    return of_cells


def _path(data: Arrays, name: str, key: str = "") -> str:
    """The JSON path of an input, or of a key of it."""
    return "$.data.features" if data.inputs is None else f"$.data.inputs.{name}{key}"


def _missing(data: Arrays, name: str) -> str:
    """The key that says what is done where a value of an input is missing."""
    return "data.missing" if data.inputs is None else f"data.inputs.{name}.missing"


def _mark(spec: JobSpec, data: Arrays) -> tuple[str, str] | None:
    """JSON path and name in the data of what the split looks at."""
    split = data.split
    if not isinstance(split, SplitBy):
        return None
    if split.stratified is not None:
        k = spec.task_names.index(split.stratified)
        return f"$.tasks[{k}].target", spec.tasks[k].source
    name = "group" if split.group is not None else "column"
    return f"$.data.split.{name}", str(split.group or split.column)


def _marks(
    values: Array | None, mark: tuple[str, str] | None, place: Place, may_miss: bool
) -> Array | None:
    """The marks [N] of a split; raises InputError if a sample has several, or none.

    may_miss: a sample may have none.
    """
    if mark is None or values is None:
        return None
    where, name = f"{place.file}, column {mark[1]}", mark[1]
    if values.size != len(values):
        found, rule = f"shape {list(values.shape)}", "a split looks at one value per sample"
        raise InputError([Fault(where, found, rule, "store one, in an array [N]")])
    values = values.reshape(-1)
    empty = values == "" if values.dtype.kind in "OU" else np.isnan(values.astype(np.float64))
    if may_miss:  # samples without a label are a class of their own
        return values if values.dtype.kind in "OU" else np.where(empty, -1, values)
    if len(rows := np.flatnonzero(empty)):
        rule = "the split needs a value in every row"
        more = f", in {len(rows)} rows" if len(rows) > 1 else ""
        remedy = "fill it in"
        if mark[0].endswith(".target"):
            remedy += f', or set {mark[0].removesuffix("target")}missing to "skip"'
        fault = Fault(place.at(name, [int(rows[0])]), f"no value{more}", rule, remedy)
        raise InputError([fault])
    return values


def _may_miss(spec: JobSpec, data: Arrays) -> bool:
    """True if the split looks at a task whose labels may be missing."""
    name = data.split.stratified if isinstance(data.split, SplitBy) else None
    return any(task.name == name and task.missing == "skip" for task in spec.tasks)


def _labels(spec: JobSpec) -> list[str]:
    """Names in the data of the targets and of the samples' weights."""
    weights = [task.sample_weight for task in spec.tasks if task.sample_weight is not None]
    return list(dict.fromkeys([*(task.source for task in spec.tasks), *weights]))


def _classes(spec: JobSpec) -> set[str]:
    """Names in the data of the targets that may be texts."""
    return {task.source for task in spec.tasks if task.loss.kind in CATEGORICAL}


def _read_arrays(spec: JobSpec, data: Arrays, source: str, folder: Path) -> Content:
    wanted, texts = wanted_arrays(spec, data)
    arrays: dict[str, Any]
    if is_folder(source, folder):
        whole = wanted if _paddings(data) else {*texts, *_labels(spec)}
        arrays, names = read_shards(source, folder, wanted, texts, wanted - whole)
    else:
        numbers = {str(each.source) for each in data.named.values() if each.kind == "numbers"}
        arrays, names = read_arrays(source, folder, wanted, texts | numbers)
        if faults := [
            _of_texts(source, key) for key in sorted(numbers - texts) if _has_texts(arrays, key)
        ]:
            raise InputError(faults)
    return content_of_arrays(spec, data, arrays, names, Place("$.data", source, "row"))


def wanted_arrays(spec: JobSpec, data: Arrays) -> tuple[set[str], set[str]]:
    """Names of the arrays that a spec reads, and those of them that may hold texts."""
    mark, named = _mark(spec, data), data.named
    marks = {mark[1]} if mark else set()
    coded = {str(each.source) for each in named.values() if each.is_coded}
    inputs = {str(each.source) for each in named.values()}
    wanted = {*inputs, *_paddings(data).values(), *_labels(spec)}
    return wanted | marks, _classes(spec) | marks | coded


def _paddings(data: Arrays) -> dict[str, str]:
    """By input, the array that says which positions are real."""
    return {name: p for name, each in data.named.items() if (p := each.lengths or each.mask)}


def content_of_arrays(
    spec: JobSpec, data: Arrays, arrays: Mapping[str, Any], names: Sequence[str], place: Place
) -> Content:
    """What arrays hold; names: of all arrays that there are. Raises InputError."""
    mark, named, source = _mark(spec, data), data.named, place.file
    sources = {name: str(each.source) for name, each in named.items()}
    paddings = _paddings(data)
    targets = [name for name in names if name not in {*sources.values(), *paddings.values()}]
    absent = [
        _no_array(_path(data, name, ".source"), key, names, source)
        for name, key in sources.items()
        if key not in arrays
    ]
    for name, key in paddings.items():
        if key not in arrays:
            where = _path(data, name, ".lengths" if named[name].lengths else ".mask")
            absent.append(missing_name(where, key, names))
    if absent:
        raise InputError([*absent, *missing_targets(spec, targets)])
    inputs = {name: shaped(arrays[key], named[name], place) for name, key in sources.items()}
    faults = _unequal_rows(data, inputs)
    values = arrays.get(mark[1]) if mark else None
    first = next(iter(inputs.values()))
    if mark and mark[1] not in names and not mark[0].endswith("target"):
        faults.append(missing_name(*mark, names))
    if mark and values is not None and values.shape[:1] != first.shape[:1]:
        found, rule = f"shape {list(values.shape)}", f"the features have {len(first)} rows"
        where, remedy = f"{source}, column {mark[1]}", "store one value for each row"
        faults.append(Fault(where, found, rule, remedy))
    real = None
    if not faults:
        axes = common_positions(inputs)
        for name, key in paddings.items():
            real = real_positions(name, named[name], arrays[key], axes, len(first), place)
        for name, each in inputs.items():
            mine, key = real_of(each, real), sources[name]
            faults += value_faults_of(arrays[key], named[name], place, mine, _missing(data, name))
    if faults:
        raise InputError([*faults, *missing_targets(spec, targets)])
    kept = {name: arrays[name] for name in _labels(spec) if name in arrays}
    stored: dict[str, Stored] = dict(inputs)
    return Content(
        place, stored, kept, targets, _marks(values, mark, place, _may_miss(spec, data)), real
    )


def _no_array(where: str, key: str, names: Sequence[str], source: str) -> Fault:
    fault = missing_name(where, key, names)
    if "did you" not in fault.remedy and source.endswith(".parquet"):
        remedy = f'store them as one column of lists, or name the columns: ["{names[0]}", …]'
        return replace(fault, remedy=remedy)
    return fault


def _has_texts(arrays: Mapping[str, Array], key: str) -> bool:
    return key in arrays and arrays[key].dtype.kind == "O"


def _of_texts(source: str, key: str) -> Fault:
    """The fault of an input of numbers that holds texts."""
    rule = 'an input of kind "numbers" must hold numbers'
    remedy = 'store numbers, or set the kind of this input to "codes" in data.inputs'
    return Fault(f"{source}, column {key}", "texts", rule, remedy)


def _unequal_rows(data: Arrays, inputs: Mapping[str, Array | Rows]) -> list[Fault]:
    """The faults of inputs that have more or fewer samples than the first."""
    (first, values), *others = inputs.items()
    return [
        Fault(_path(data, name), f"{len(each)} rows", f"{first} has {len(values)}", "store as many")
        for name, each in others
        if len(each) != len(values)
    ]


def content_of_table(spec: JobSpec, data: Arrays, table: Table, known: Known = NOTHING) -> Content:
    """What a table holds. Raises InputError."""
    names, mark, source = table.names, _mark(spec, data), table.source
    targets = {name: matching(name, names) for name in _labels(spec)}
    taken = {name for found in targets.values() for name in found} | ({mark[1]} if mark else set())
    chosen: dict[str, list[str]] = {}
    faults = []
    for name, about in data.named.items():
        chosen[name], wrong = _feature_columns(data, name, about, names, taken)
        faults += wrong
        if about.kind not in ("numbers", "codes") or about.lengths or about.mask:
            rule = "a table has numbers and codes, and one position in each sample"
            remedy = "store arrays, in .npz, .safetensors or .parquet"
            faults.append(Fault(_path(data, name), f"an input of {source}", rule, remedy))
    if mark and mark[1] not in names and not mark[0].endswith("target"):
        faults.append(missing_name(*mark, names))
    absent = missing_targets(spec, [*names, *(name for name, found in targets.items() if found)])
    if faults and not any([*chosen.values(), *targets.values()]):
        _check_header(table)
    if faults or table.faults:
        raise InputError([*table.faults, *faults, *absent])
    every = [column for each in chosen.values() for column in each]
    read = [name for name in dict.fromkeys([*every, *taken]) if name in names]
    columns = {
        name: parse_known(table, name, known[name]) if name in known else parse_column(table, name)
        for name in read
    }
    for name, mine in chosen.items():
        _add_faults_of_empty_cells(table, {c: columns[c] for c in mine}, data, name)
        for column in mine:
            _add_faults_of_cells(table, column, columns[column], data.named[name])
    if table.faults:
        raise InputError([*table.faults, *absent])
    arrays = {
        name: columns[name] if found == [name] else np.stack([columns[c] for c in found], axis=1)
        for name, found in targets.items()
        if found
    }
    place = Place("$.data", source, "row", table.rows)
    marks = _marks(
        (columns | arrays).get(mark[1]) if mark else None, mark, place, _may_miss(spec, data)
    )
    inputs: dict[str, Stored] = {
        name: {column: columns[column] for column in mine} for name, mine in chosen.items()
    }
    return Content(place, inputs, arrays, list(dict.fromkeys([*names, *arrays])), marks)


def _feature_columns(
    data: Arrays, of: str, about: Input, names: Sequence[str], taken: set[str]
) -> tuple[list[str], list[Fault]]:
    """The columns that are an input, and the faults of what stands for none; taken: no features."""
    source = about.source or ()
    chosen: list[str] = []
    faults = []
    for i, pattern in enumerate([source] if isinstance(source, str) else source):
        where = _path(data, of, ".source") + ("" if isinstance(source, str) else f"[{i}]")
        found = matching(pattern, names, taken)
        if not found:
            faults.append(_no_column(where, pattern, names, data))
        elif found[0] in taken:
            rule = "a column is a feature, a target or what the split looks at"
            faults.append(Fault(where, f'"{pattern}"', rule, "remove it from the features"))
        chosen += [name for name in found if name not in chosen]
    return chosen, faults


def _check_header(table: Table) -> None:
    """Raise InputError if a column has a number for its name."""
    for name in table.names:
        if name.replace(".", "", 1).isdecimal():
            found = f'a column named "{name}", and none that the spec names'
            rule, remedy = "the first row names the columns", "add a row of names"
            raise InputError([Fault(table.source, found, rule, remedy)])


def _no_column(where: str, pattern: str, names: Sequence[str], data: Arrays) -> Fault:
    fault = missing_name(where, pattern, names)
    if data.features == FEATURES and data.inputs is None and "did you" not in fault.remedy:
        return replace(fault, remedy=f'name the columns that are features: ["{names[0]}", …]')
    return fault


def _add_faults_of_cells(table: Table, name: str, values: Array, about: Input) -> None:
    """Add the faults of a feature's cells that are too large for float32, or no codes."""
    if about.is_coded:
        rule, of_codes = "codes are whole numbers or texts", "number the categories"
        table.add_faults(
            name, odd_codes(values), lambda i: (cell_text(table, name, i), rule, of_codes)
        )
        return
    if values.dtype.kind != "O":
        with np.errstate(over="ignore"):
            large = ~np.isfinite(values.astype(np.float32)) & ~np.isnan(values)
        rule = "must be a finite number in float32"
        table.add_faults(name, large, lambda i: (cell_text(table, name, i), rule, "correct it"))


def _add_faults_of_empty_cells(
    table: Table, features: Mapping[str, Array], data: Arrays, of: str
) -> None:
    """Add one fault for the columns [N] of an input that are empty in the same rows."""
    if data.named[of].is_coded or data.named[of].missing != "refuse":
        return
    alike: dict[bytes, list[str]] = {}
    for name, values in features.items():
        empty = empties(values)
        if empty.any():
            alike.setdefault(empty.tobytes(), []).append(name)
    for rows, (name, *others) in alike.items():
        empty = np.frombuffer(rows, dtype=bool)
        first, count = int(empty.argmax()), int(empty.sum())
        found = cell_text(table, name, first) + (f", in {count} rows" if count > 1 else "")
        found += f", as in {', '.join(others)}" if others else ""
        remedy = f'fill it in, or set {_missing(data, of)} to "mean" or "indicator"'
        table.faults.append(table.fault_at(first, name, found, "every row needs a value", remedy))


# --- names that are not there -------------------------------------------------------------------


def missing_targets(spec: JobSpec, names: Sequence[str]) -> list[Fault]:
    """The faults of the tasks whose target or sample weights are not among the names."""
    return [
        missing_name(f"$.tasks[{k}].{key}", name, names)
        for k, task in enumerate(spec.tasks)
        for key, name in (("target", task.source), ("sample_weight", task.sample_weight))
        if name is not None and name not in names
    ]


def missing_name(where: str, name: str, names: Sequence[str]) -> Fault:
    """The fault of a name that is not among the names of the data."""
    close = difflib.get_close_matches(name, names, n=1)
    remedy = f'did you mean "{close[0]}"?' if close else "name one of these"
    return Fault(where, f'"{name}"', f"the data has {', '.join(names) or 'nothing'}", remedy)
