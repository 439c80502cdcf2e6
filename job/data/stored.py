"""Samples from stored arrays or from the columns of a table: read, split, and made features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from job.data.content import Content, read_content
from job.data.encoding.codes import Real
from job.data.encoding.encoders import Encoder, common_positions, fit_encoder
from job.data.encoding.input_info import InputInfo
from job.data.shards.rows import Rows
from job.data.split import divide
from job.data.targets import without_padding
from job.data.values import Place
from job.errors import Fault, InputError
from job.spec import Arrays, JobSpec, OtherFile, SplitBy

Array = NDArray[Any]
Index = NDArray[np.int64]


@dataclass
class Samples:
    """N samples of one file, before their targets are checked against the tasks."""

    place: Place
    """Of the file, for messages."""
    inputs: dict[str, Array | Rows]
    """[N, …, F] by name: float32, bytes as they are, or codes in int32."""
    targets: dict[str, Array]
    """[N, …] by name in the spec, numbers or texts; only those that the tasks read."""
    names: Sequence[str]
    """Names of all targets in the data."""
    starts: Index
    """[N] first row of the source in each sample, ascending within a split."""
    span: int = 1
    """Rows of the source in a sample."""
    real: Real = None
    """[N, …] true at the positions of a sample that are no padding; None: all of them."""

    @property
    def positions(self) -> tuple[int, ...]:
        """The axes of a sample's positions."""
        return common_positions(self.inputs)


class Part(NamedTuple):
    """The samples of a split, among those of a file."""

    samples: Samples
    positions: Index


class Parts(NamedTuple):
    """The samples of all splits."""

    train: Part
    validation: Part
    test: Part | None
    rows: int
    """Number of bars or samples in the first file."""
    skipped: dict[str, int]
    inputs: dict[str, InputInfo]


def stored_parts(spec: JobSpec, data: Arrays, folder: Path, test: bool) -> Parts:
    """The samples of a spec's stored arrays; those of the test only if `test`.

    Raises InputError.
    """
    first = read_content(spec, data, data.path, folder)
    seed = spec.seed if data.seed is None else data.seed
    positions = divide(len(first), data, seed, first.marks, first.place)
    encoders = {
        name: fit_encoder(name, about, first.inputs[name], positions.train, first.real, data.path)
        for name, about in data.named.items()
    }
    skipped: dict[str, int] = {}
    samples = encoded_samples(spec, first, encoders, skipped)

    def held(name: str, where: float | OtherFile | None, mine: Index) -> Part:
        if not isinstance(where, OtherFile):
            return Part(samples, mine)
        try:
            other = read_content(spec, data, where.path, folder)
            _check_alike(data, first, other)
            _check_groups(data, first, other)
            return Part(encoded_samples(spec, other, encoders, skipped), np.arange(len(other)))
        except InputError as error:
            raise InputError([_of_other_file(fault, name) for fault in error.faults]) from None

    validation = held("validation", data.validation, positions.validation)
    kept = held("test", data.test, positions.test) if test else None
    has_test = kept is not None and len(kept.positions) > 0
    train = Part(samples, positions.train)
    inputs = {name: encoder.info for name, encoder in encoders.items()}
    return Parts(train, validation, kept if has_test else None, len(first), skipped, inputs)


def _of_other_file(fault: Fault, name: str) -> Fault:
    """A fault of the first file as one of the file that data.`name` names."""
    where = fault.where.replace("$.data.path", f"$.data.{name}.path")
    return replace(
        fault, where=where, remedy=fault.remedy.replace("data.path", f"data.{name}.path")
    )


def _check_alike(data: Arrays, first: Content, other: Content) -> None:
    """Raise InputError unless the inputs of another file have the shapes and units of the first."""
    for name, mine in first.inputs.items():
        theirs = other.inputs[name]
        if isinstance(mine, dict) or isinstance(theirs, dict):
            continue
        where = f"{other.place.file}, {name}"
        of_bytes = [each.dtype == np.uint8 for each in (mine, theirs)]
        if mine.shape[1:] != theirs.shape[1:]:
            rule = f"{first.place.file} has {_shape(mine).removesuffix(' features')}"
            fault = Fault(where, _shape(theirs), rule, "store both in one shape")
            raise InputError([fault])
        if of_bytes[0] != of_bytes[1] and not data.named[name].is_coded:
            rule = f"{first.place.file} has {mine.dtype}, in which 1 is another number"
            raise InputError([Fault(where, str(theirs.dtype), rule, "store both in one type")])


def _check_groups(data: Arrays, first: Content, other: Content) -> None:
    """Raise InputError if a group of another file is in the first one too."""
    by_group = isinstance(data.split, SplitBy) and data.split.group is not None
    if not by_group or first.marks is None or other.marks is None:
        return
    shared = sorted(set(first.marks.tolist()) & set(other.marks.tolist()))
    if shared:
        more = f" and {len(shared) - 1} more groups" if len(shared) > 1 else ""
        rule = f"a group is in one split, and {first.place.file} has it too"
        raise InputError(
            [Fault(other.place.file, f'group "{shared[0]}"{more}', rule, "keep each in one file")]
        )


def _shape(values: Array | Rows) -> str:
    *positions, features = values.shape[1:]
    steps = " x ".join(map(str, positions))
    return f"{steps} steps of {features} features"


def encoded_samples(
    spec: JobSpec, content: Content, encoders: Mapping[str, Encoder], skipped: dict[str, int]
) -> Samples:
    """The samples of a file; counts what is unknown or filled in `skipped`. Raises InputError."""
    file, real = content.place.file, content.real
    inputs = {
        name: encoder.encode(name, content.inputs[name], real, file, skipped)
        for name, encoder in encoders.items()
    }
    targets = dict(content.targets)
    for task in spec.tasks:
        if real is not None and task.level == "step" and task.source in targets:
            targets[task.source] = without_padding(targets[task.source], real)
    rows = np.arange(len(content))
    return Samples(content.place, inputs, targets, content.names, rows, real=real)
