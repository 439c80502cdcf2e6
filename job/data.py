"""Samples and targets of a spec, checked against its tasks and split.

What the loader leaves out is counted in `Dataset.skipped`; a NaN is a fault, never left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job import series
from job.arrays import read_arrays
from job.bars import read_bars
from job.faults import Fault, InputError
from job.spec import Arrays, JobSpec, OhlcWindows
from job.target import Place, fit, not_finite

Array = NDArray[Any]


@dataclass(frozen=True)
class Split:
    """N samples of T steps, on the CPU."""

    features: Tensor
    """[N, T, F] float32."""
    targets: dict[str, Tensor]
    """By name of task. cross_entropy: int64, [N] of a window, [N, T] of a step task; others:
    float32, [N, O] of a window, [N, T, O] of a step task."""


@dataclass(frozen=True)
class Dataset:
    """The two splits, and what became of the source."""

    train: Split
    validation: Split
    rows: int
    """Bars or samples read."""
    skipped: dict[str, int]
    """Reason → how many were left out."""
    source: str
    """The path as the user wrote it."""


class _Samples(NamedTuple):
    """What a source holds, before the tasks are asked."""

    features: Array
    """[N, T, F] float32"""
    targets: dict[str, Array]
    """[N, …] by name in the data; those that the tasks read."""
    names: Sequence[str]
    """Of all targets in the data."""
    train: Array
    """Positions of the training samples."""
    validation: Array
    rows: int
    skipped: dict[str, int]


def load(spec: JobSpec, folder: Path) -> Dataset:
    """The samples of `spec`, whose relative paths start at `folder`.

    Raises InputError with all faults found: file, row and column of bad data, the JSON path
    where the spec does not fit the data. Rows of arrays and windows are counted from 0.
    """
    if spec.data.kind == "ohlc_windows":
        samples = _of_bars(spec, spec.data, folder)
    else:
        samples = _of_arrays(spec, spec.data, folder)
    targets, faults = _targets(spec, samples)
    if spec.train.batch_size > (size := len(samples.train)):
        rule = f"the training set has {size} samples"
        found = str(spec.train.batch_size)
        faults.append(Fault("$.train.batch_size", found, rule, f"set it to {size} or less"))
    if faults:
        raise InputError(faults)

    def split(part: Array) -> Split:
        return Split(
            torch.from_numpy(samples.features[part]),
            {name: torch.from_numpy(values[part]) for name, values in targets.items()},
        )

    train, validation = split(samples.train), split(samples.validation)
    return Dataset(train, validation, samples.rows, samples.skipped, spec.data.path)


def _targets(spec: JobSpec, samples: _Samples) -> tuple[dict[str, Array], list[Fault]]:
    """Each task's target for all samples, and the faults of those that cannot be had."""
    n, steps, _ = samples.features.shape
    kind = "row" if spec.data.kind == "arrays" else "window"
    targets: dict[str, Array] = {}
    faults = _unknown(spec, samples.names)
    for k, task in enumerate(spec.tasks):
        if task.source not in samples.targets:
            continue
        place = Place(f"$.tasks[{k}]", spec.data.path, kind)
        try:
            targets[task.name] = fit(samples.targets[task.source], task, (n, steps), place)
        except InputError as error:
            faults += error.faults
    return targets, faults


def _unknown(spec: JobSpec, names: Sequence[str]) -> list[Fault]:
    """Faults of the tasks whose target is not among the names."""
    return [
        _absent(f"$.tasks[{k}].target", task.source, names)
        for k, task in enumerate(spec.tasks)
        if task.source not in names
    ]


def _absent(where: str, name: str, names: Sequence[str]) -> Fault:
    close = difflib.get_close_matches(name, names, n=1)
    remedy = f'did you mean "{close[0]}"?' if close else "name one of these"
    return Fault(where, f'"{name}"', f"the data has {', '.join(names) or 'nothing'}", remedy)


# --- sources ----------------------------------------------------------------------------------


def _of_bars(spec: JobSpec, data: OhlcWindows, folder: Path) -> _Samples:
    try:
        bars = read_bars(folder / data.path, data)
        made = series.windows(bars, data)
    except InputError as error:
        raise InputError([*error.faults, *_unknown(spec, series.TARGETS)]) from None
    return _Samples(
        made.features,
        made.targets,
        series.TARGETS,
        made.train,
        made.validation,
        len(bars),
        made.skipped,
    )


def _of_arrays(spec: JobSpec, data: Arrays, folder: Path) -> _Samples:
    wanted = {data.features, *(task.source for task in spec.tasks)}
    arrays, names = read_arrays(data.path, folder, wanted)
    targets = [name for name in names if name != data.features]
    if data.features not in arrays:
        fault = _absent("$.data.features", data.features, names)
        raise InputError([fault, *_unknown(spec, targets)])
    features = arrays.pop(data.features)
    if faults := _check_features(features, data):
        raise InputError([*faults, *_unknown(spec, targets)])
    features = features.astype(np.float32).reshape(len(features), -1, features.shape[-1])
    train, validation = _divide(len(features), data, spec.seed)
    return _Samples(features, arrays, targets, train, validation, len(features), {})


def _check_features(features: Array, data: Arrays) -> list[Fault]:
    if features.ndim not in (2, 3) or 0 in features.shape[1:]:
        found, rule = f"shape {list(features.shape)}", "features must be [N, T, F] or [N, F]"
        return [Fault(f"{data.path}, column {data.features}", found, rule, "store them so")]
    if len(features) < 2:
        found, rule = f"{len(features)} rows", "a split needs 2 or more"
        return [Fault(data.path, found, rule, "supply more data")]
    return not_finite(features, data.features, Place("$.data", data.path, "row"))


def _divide(n: int, data: Arrays, seed: int) -> tuple[Array, Array]:
    """Positions of the training and the validation samples, at least one each, ascending."""
    held_out = min(max(round(data.validation * n), 1), n - 1)
    order = np.random.default_rng(seed).permutation(n) if data.split == "random" else np.arange(n)
    return np.sort(order[: n - held_out]), np.sort(order[n - held_out :])
