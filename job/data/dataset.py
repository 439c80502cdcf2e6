"""Samples and targets of a spec, checked against its tasks and split.

`Dataset.skipped` counts what the loader leaves out. A NaN is a fault and never left out, unless it
is a label that its task may lack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.data.bars import read_bars
from job.data.content import missing_targets
from job.data.encoding.feature_stats import FeatureStats, measure_features
from job.data.encoding.input_form import InputForm
from job.data.encoding.input_info import FEATURES, MASK, InputInfo
from job.data.shards.rows import Rows
from job.data.start.pretrained import read_pretrained
from job.data.stored import Part, Parts, Samples, stored_parts
from job.data.targets import (
    class_names,
    fit,
    fit_weights,
    has_labels,
    number_classes,
    without_labels,
    zero_and_one,
)
from job.data.unfit_model import unfit_model
from job.data.unmeasurable import unmeasurable_gates
from job.data.values import Place
from job.data.windows import TARGETS, windows
from job.errors import Fault, InputError
from job.events import Origin
from job.spec import CATEGORICAL, JobSpec, OhlcWindows

Array = NDArray[Any]


@dataclass(frozen=True)
class Split:
    """N samples of T steps, on the CPU."""

    inputs: dict[str, Any]
    """Tensors [N, …, F] by name: float32, bytes as they are, or codes in int32. Those of a folder
    of shards are Rows, which stay on disk and give tensors when they are indexed. What stands
    between N and F are the positions of a sample, such as its time steps. Where samples have
    padding, MASK [N, …] is true at the other positions."""
    targets: dict[str, Tensor]
    """By task name. cross_entropy: int64, [N] of a window, [N, T] of a step task; others: float32,
    [N, O] of a window, [N, T, O] of a step task. A missing label is −1 among classes, else NaN."""
    overlap: int = 1
    """Samples fewer than this many places apart may share data; 1: none do."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """[N] float32 by task name, of the tasks whose samples have weights."""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def positions(self) -> int:
        """Positions of a sample, T; 1 if the inputs have none."""
        return max(int(prod(x.shape[1:-1])) for name, x in self.inputs.items() if name != MASK)

    @property
    def on_disk(self) -> dict[str, Rows]:
        """The inputs that are on disk."""
        return {name: x for name, x in self.inputs.items() if isinstance(x, Rows)}

    @property
    def real(self) -> Tensor | None:
        """[N, …] true at the positions that are no padding; None: all of them."""
        real = self.inputs.get(MASK)
        return real if isinstance(real, Tensor) else None

    def inputs_of(self, samples: Tensor, device: torch.device | None = None) -> dict[str, Tensor]:
        """The inputs of some samples, on a device; None: the CPU."""
        return {name: x[samples].to(device) for name, x in self.inputs.items()}

    def values_of(self, name: str) -> Tensor | Rows:
        """The values of an input [N, …, F], or [M, F] of its M real positions if it is padded."""
        x, real = self.inputs[name], self.real
        whole: Tensor | Rows = x
        return whole if real is None or x.shape[1:-1] != real.shape[1:] else x[real]

    def weights_of(self, task: str, samples: Tensor) -> Tensor | None:
        """The weights [n] of some samples for a task; None if they have none."""
        return self.weights[task][samples] if task in self.weights else None


@dataclass(frozen=True)
class Dataset:
    """The splits, and counts of the source's rows."""

    train: Split
    validation: Split
    rows: int
    """Number of bars or samples in the source."""
    skipped: dict[str, int]
    """Reason → number of bars, windows or samples that were left out."""
    source: str
    """The path as the user wrote it."""
    inputs: dict[str, InputInfo] = field(default_factory=lambda: {FEATURES: InputInfo()})
    """What each input holds."""
    classes: dict[str, list[str]] = field(default_factory=dict)
    """Classes in order, of each task whose target is texts."""
    test: Split | None = None
    """Samples that a run looks at once, at its end; None if there are none, or they were not asked
    for."""
    folder: Path = Path()
    """Where the spec's relative paths start."""
    pretrained: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that the network may begin with, by name."""
    origin: Origin | None = None
    """The run that these tensors are of; None for those of a file, and without any."""

    def feature_name(self, of: str, i: int) -> str:
        """The name of a feature of an input, for messages."""
        name = self.inputs[of].name(i)
        return name if len(self.inputs) == 1 else f"{of}: {name}"

    @property
    def levels(self) -> dict[str, list[str]]:
        """The levels of every column of categories and of every feature of codes."""
        return {k: v for about in self.inputs.values() for k, v in about.levels.items()}

    @property
    def forms(self) -> dict[str, InputForm]:
        """By input, what a checkpoint keeps of it."""
        each = self.inputs.items()
        return {name: InputForm.of(i, self.train.inputs[name].shape[1:]) for name, i in each}

    @property
    def feature_ranges(self) -> dict[str, list[float]]:
        """Least and greatest value of the features, not scaled; of many only the extreme ones."""
        each = [self.ranges_of(name) for name in self.stats]
        return {key: ends for ranges in each for key, ends in ranges.items()}

    def ranges_of(self, name: str) -> dict[str, list[float]]:
        """The same of one input of numbers."""
        stats = self.stats[name]
        return {
            self.feature_name(name, i): [float(stats.low[i]), float(stats.high[i])]
            for i in stats.notable()
        }

    @cached_property
    def stats(self) -> dict[str, FeatureStats]:
        """Statistics of the training split's features, by each input of numbers."""
        numbers = [name for name, about in self.inputs.items() if not about.codes]
        return {name: measure_features(self.train.values_of(name)) for name in numbers}


class _Labels(NamedTuple):
    """Of all samples of a file: by task, targets, and weights where samples have some."""

    targets: dict[str, Array]
    weights: dict[str, Array]


def load(spec: JobSpec, folder: Path, test: bool = False) -> Dataset:
    """The samples of `spec`, whose relative paths start at `folder`; those of the test if `test`.

    Raises InputError with all faults: file, row and column of bad data, or the JSON path of a value
    that does not fit the data. Rows of arrays and windows are counted from 0.
    """
    if spec.data.kind == "ohlc_windows":
        parts = _bar_parts(spec, spec.data, folder)
    else:
        parts = stored_parts(spec, spec.data, folder, test)
    classes = _classes(spec, parts.train.samples)
    by_file: dict[int, _Labels] = {}
    samples = parts.train.samples
    faults = unfit_model(spec, samples.positions, samples.real is not None)
    splits = {"training": parts.train, "validation": parts.validation}
    if parts.test is not None:
        splits["test"] = parts.test
    for part in splits.values():
        if id(part.samples) not in by_file:
            by_file[id(part.samples)], wrong = _targets(spec, part.samples, classes)
            faults += wrong
    faults += _without_labels(spec, by_file, splits)
    if spec.train.batch_size > (size := len(parts.train.positions)):
        rule = f"the training set has {size} samples"
        found = str(spec.train.batch_size)
        faults.append(Fault("$.train.batch_size", found, rule, f"set it to {size} or less"))
    faults += endless_warmup(spec, size)
    held = {"train": parts.train, "validation": parts.validation}
    faults = faults or unmeasurable_gates(
        spec,
        {
            name: {task: y[at] for task, y in by_file[id(samples)].targets.items()}
            for name, (samples, at) in held.items()
        },
    )
    if faults:
        raise InputError(faults)

    def split(part: Part) -> Split:
        return _split(spec, part, by_file[id(part.samples)])

    return Dataset(
        split(parts.train),
        split(parts.validation),
        parts.rows,
        parts.skipped,
        spec.data.path,
        parts.inputs,
        classes,
        split(parts.test) if parts.test is not None else None,
        folder,
        read_pretrained(spec.model.weights, folder) if spec.model.weights else {},
    )


def endless_warmup(spec: JobSpec, samples: int) -> list[Fault]:
    """The fault of a warm-up that lasts as long as the run, if it does."""
    parts = spec.train.accumulate.steps if spec.train.accumulate else 1
    steps = spec.train.epochs * ceil(samples / (spec.train.batch_size * parts))
    if spec.train.warmup < steps:
        return []
    rule = f"the run has {steps} steps, and would never reach its learning rate"
    return [Fault("$.train.warmup", str(spec.train.warmup), rule, "warm up for fewer steps")]


def _split(spec: JobSpec, part: Part, labels: _Labels) -> Split:
    """A part's samples with their labels; of a control the labels are permuted."""
    samples, at = part
    permuted = np.random.default_rng((spec.seed, len(at))).permutation(at)
    chosen = permuted if spec.control else at
    targets, weights = (
        {k: torch.from_numpy(y[chosen]) for k, y in each.items()} for each in labels
    )
    inputs = {
        name: x.take(at) if isinstance(x, Rows) else torch.from_numpy(x[at])
        for name, x in samples.inputs.items()
    }
    if samples.real is not None:
        inputs[MASK] = torch.from_numpy(samples.real[at])
    return Split(inputs, targets, overlap(samples.starts[at], samples.span), weights)


def overlap(starts: Array, span: int) -> int:
    """Of samples that take `span` rows from `starts` [N], how many in a row share rows at most."""
    return int((np.searchsorted(starts, starts + span) - np.arange(len(starts))).max())


def labelled_split(spec: JobSpec, samples: Samples, classes: dict[str, list[str]]) -> Split:
    """Samples that no run has split, with their labels; classes: as the run has them.

    Raises InputError.
    """
    labels, faults = _targets(spec, samples, classes)
    part = Part(samples, np.arange(len(samples.starts)))
    if not faults:
        faults = _without_labels(spec, {id(samples): labels}, {"evaluated": part})
    if faults:
        raise InputError(faults)
    return _split(spec, part, labels)


def _classes(spec: JobSpec, samples: Samples) -> dict[str, list[str]]:
    """The classes of each task whose target is texts, by task; of a 0/1 target: 0, then 1."""
    classes: dict[str, list[str]] = {}
    for task in spec.tasks:
        raw = samples.targets.get(task.source)
        if task.loss.kind in CATEGORICAL and raw is not None and raw.dtype.kind == "O":
            names = class_names(raw) if task.loss.kind == "cross_entropy" else zero_and_one(raw)
            classes |= {task.name: names} if names else {}
    return classes


def _targets(
    spec: JobSpec, samples: Samples, classes: dict[str, list[str]]
) -> tuple[_Labels, list[Fault]]:
    """The labels of all samples of a file, and the faults of what does not fit."""
    shape, real = (len(samples.starts), *samples.positions), samples.real
    labels = _Labels({}, {})
    faults = missing_targets(spec, samples.names)
    lengths = {y.shape[:1] for y in samples.targets.values()}
    if len(samples.targets) > 1 and len(lengths) == 1 and lengths != {shape[:1]}:
        found = f"{shape[0]} rows of features, and {max(lengths)[0]} of every target"
        rule, remedy = "a sample is one row of all arrays", "store the samples along the first axis"
        return labels, [*faults, Fault(samples.place.file, found, rule, remedy)]
    for k, task in enumerate(spec.tasks):
        if not {task.source, task.sample_weight or task.source} <= samples.targets.keys():
            continue
        place, raw = samples.place._replace(path=f"$.tasks[{k}]"), samples.targets[task.source]
        try:
            if task.name in classes:
                raw = number_classes(raw.astype(object), classes[task.name], task, place, real)
            labels.targets[task.name] = fit(raw, task, shape, place, real)
            if task.sample_weight is not None:
                given = samples.targets[task.sample_weight]
                labels.weights[task.name] = fit_weights(given, task, shape[0], place)
        except InputError as error:
            faults += error.faults
    return labels, faults


def _without_labels(
    spec: JobSpec, by_file: dict[int, _Labels], splits: dict[str, Part]
) -> list[Fault]:
    """A fault for each task without any label in a split."""
    faults = []
    for k, task in enumerate(spec.tasks):
        empty = {}
        for name, (samples, at) in splits.items():
            targets, weights = by_file[id(samples)]
            mine = weights[task.name][at] if task.name in weights else None
            if task.name in targets and not has_labels(task, targets[task.name][at], mine):
                empty[name] = len(at)
        if empty:
            faults.append(without_labels(task, empty, f"$.tasks[{k}]"))
    return faults


def _bar_parts(spec: JobSpec, data: OhlcWindows, folder: Path) -> Parts:
    try:
        bars = read_bars(folder / data.path, data)
        made = windows(bars, data)
    except InputError as error:
        raise InputError([*error.faults, *missing_targets(spec, TARGETS)]) from None
    place = Place("$.data", data.path, "window")
    samples = Samples(
        place, {FEATURES: made.features}, made.targets, TARGETS, made.starts, data.window
    )
    train, validation = Part(samples, made.train), Part(samples, made.validation)
    return Parts(train, validation, None, len(bars), made.skipped, {FEATURES: InputInfo()})
