"""Predicts for new samples with a run's network, as the run itself did for its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from job.data.bars import Bars, bars_of, read_bars
from job.data.chunks.read import chunk_of_arrays, chunk_of_table, no_rows, read_chunks
from job.data.content import Content, wanted_arrays
from job.data.encoding.encoders import Encoder
from job.data.encoding.input_form import InputForm
from job.data.encoding.input_info import FEATURES, MASK
from job.data.values import Place
from job.data.windows import all_windows
from job.errors import Fault, InputError
from job.model.losses import TaskLoss
from job.model.network import Network
from job.predict.lacking import naming_the_file
from job.predict.locate import Origin
from job.predict.predicted import Predicted, predicted
from job.predict.samples import WHERE, as_arrays, as_table
from job.record.layout import MODEL
from job.record.manifest import Manifest
from job.spec import Arrays, JobSpec, OhlcWindows

BATCH = 512
"""Samples per forward pass, as in a run's evaluation."""
SPAN = 4096
"""Windows of bars that are predicted at a time."""


class Batch(NamedTuple):
    """Some rows of a file, predicted."""

    ids: pa.Array
    """[n] their ids."""
    tasks: dict[str, Predicted]
    """By task."""


class Predictor:
    """The network of a run at one of its checkpoints; `job.predict.load` makes it.

    Samples are read as the run read its own: the same columns, categories, scaling and transforms,
    of which nothing is fitted anew.
    """

    def __init__(
        self,
        origin: Origin,
        manifest: Manifest,
        spec: JobSpec,
        folder: Path,
        model: Network,
        losses: Sequence[TaskLoss],
        forms: Mapping[str, InputForm],
        encoders: Mapping[str, Encoder],
        classes: Mapping[str, list[str]],
        device: torch.device,
    ) -> None:
        self.origin, self.spec, self.folder, self.device = origin, spec, folder, device
        self.epoch, self.weights = manifest.epoch, manifest.files[MODEL].sha256
        """Epochs that the checkpoint holds, and the SHA-256 of its weights."""
        self.model, self.losses = model.to(device), [loss.to(device) for loss in losses]
        self.forms, self.encoders, self.classes = dict(forms), dict(encoders), dict(classes)
        self.notes: list[str] = list(origin.notes)
        """What a person should know: which checkpoint it is, if not the one asked for."""
        self.skipped: Counter[str] = Counter()
        """Counts of what was unknown or filled in, in all samples so far."""
        self._reading = spec.model_copy(update={"tasks": ()})  # no target is read, or needed
        self.known = {c: c in form.texts for form in forms.values() for c in form.columns}
        """Columns of a table that are read, by name; true for those of texts."""

    @property
    def positions(self) -> tuple[int, ...]:
        """The axes of a sample's positions."""
        each = [form.shape[:-1] for form in self.forms.values()]
        return max(each, key=lambda axes: (int(np.prod(axes)), len(axes)))

    # --- in memory --------------------------------------------------------------------------------

    def predict(self, samples: object) -> dict[str, Predicted]:
        """The predictions for samples in memory, by task.

        samples: of a run on arrays, a dict of arrays, tensors or lists by name, [N, …] of any float
        type, or the array alone if there is one; of a run on a table, a pyarrow table, a data frame
        or a dict of columns, in any order, with others among them; of a run on bars, a table of
        date, open, high, low and close, whose windows are the samples. Raises InputError.
        """
        data = self.spec.data
        if isinstance(data, OhlcWindows):
            table = as_table(samples, ("date", "open", "high", "low", "close"))
            bars = bars_of(table, data.model_copy(update={"path": WHERE}))
            return _joined([tasks for _, tasks in self._windows(bars, data)])
        section = self.section(data)
        with naming_the_file(WHERE, data):
            if self.known:
                table = as_table(samples, list(self.known))
                chunk = chunk_of_table(self._reading, section, table, self.known)
            else:
                wanted, _ = wanted_arrays(self._reading, section)
                arrays = as_arrays(samples, wanted)
                place = Place("$.data", WHERE, "row")
                here = {name: x for name, x in arrays.items() if name in wanted}
                chunk = chunk_of_arrays(self._reading, section, here, list(arrays), place)
            if not len(chunk.content):
                raise no_rows(WHERE)
            return self.of_content(chunk.content)

    def section(self, data: Arrays) -> Arrays:
        """The spec's section, with the columns that training has read in place of patterns."""
        inputs = {
            name: about.model_copy(update={"source": self.forms[name].columns or about.source})
            for name, about in data.named.items()
        }
        return data.model_copy(update={"inputs": inputs, "features": FEATURES, "split": "random"})

    # --- of a file --------------------------------------------------------------------------------

    def predict_file(
        self, source: str, beside: str | None = None, folder: Path | None = None
    ) -> Iterator[Batch]:
        """The predictions for a file, or a folder of shards, some rows at a time, in their order.

        source: its path, or s3://…; relative to `folder`, if that is given. beside: the column, or
        array [N], that holds the rows' ids; None: their number, from 0. Of bars, a row is a window,
        and its id that of its last bar. Raises InputError.
        """
        data, folder = self.spec.data, folder or Path()
        first = 0
        if isinstance(data, OhlcWindows):
            bars = read_bars(folder / source, data.model_copy(update={"path": source}))
            if beside not in (None, "date"):
                rule = "a window's id is the number of its last bar, or its date"
                raise InputError([Fault("--id", f'"{beside}"', rule, "name date, or nothing")])
            for ends, tasks in self._windows(bars, data, source):
                yield Batch(pa.array(ends if beside is None else bars.dates[ends]), tasks)
            return
        chunks = read_chunks(self._reading, self.section(data), source, folder, self.known, beside)
        with naming_the_file(source, data):
            for content, ids in chunks:
                numbers = pa.array(np.arange(first, first := first + len(content)))
                yield Batch(numbers if ids is None else ids, self.of_content(content))

    # --- the network ------------------------------------------------------------------------------

    def of_content(self, content: Content) -> dict[str, Predicted]:
        """The predictions for what some rows hold. Raises InputError."""
        inputs, real = {}, content.real
        skipped: dict[str, int] = {}
        for name, encoder in self.encoders.items():
            stored, file = content.inputs[name], content.place.file
            self.forms[name].check(name, encoder.about, stored, file)
            made = encoder.encode(name, stored, real, file, skipped)
            assert isinstance(made, np.ndarray)  # rows that are in memory
            inputs[name] = torch.from_numpy(made if made.flags.writeable else made.copy())
        if real is not None:
            inputs[MASK] = torch.from_numpy(real)
        self.skipped.update(skipped)
        return self.of_inputs(inputs)

    @torch.no_grad()
    def of_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Predicted]:
        """The predictions for encoded inputs [N, …, F]."""
        count = len(next(iter(inputs.values())))
        parts: list[list[Tensor]] = []
        for start in range(0, count, BATCH):
            rows = slice(start, start + BATCH)
            batch = {name: x[rows].to(self.device) for name, x in inputs.items()}
            outputs = zip(self.losses, self.model(batch), strict=True)
            parts.append([loss.predict(each.float()).cpu() for loss, each in outputs])
        each_task = zip(self.losses, zip(*parts, strict=True), strict=True)
        return {
            loss.task.name: predicted(
                *(loss.task, torch.cat(values), self.positions),
                self.classes.get(loss.task.name, []),
            )
            for loss, values in each_task
        }

    def _windows(
        self, bars: Bars, data: OhlcWindows, source: str = WHERE
    ) -> Iterator[tuple[np.ndarray[tuple[int], np.dtype[np.int64]], dict[str, Predicted]]]:
        """Of the windows of bars, some at a time, the last bar [n], and the predictions."""
        samples, starts = all_windows(bars, data.model_copy(update={"path": source}))
        for first in range(0, len(starts), SPAN):
            rows = slice(first, first + SPAN)
            inputs = torch.from_numpy(samples[rows].copy())
            yield starts[rows] + data.window - 1, self.of_inputs({FEATURES: inputs})


def _joined(parts: Sequence[Mapping[str, Predicted]]) -> dict[str, Predicted]:
    """Predictions for some samples, then for others, as one."""
    first = parts[0]
    return {
        task: Predicted(
            np.concatenate([part[task].values for part in parts]),
            about.names,
            None
            if about.classes is None
            else np.concatenate([c for part in parts if (c := part[task].classes) is not None]),
            about.class_names,
        )
        for task, about in first.items()
    }
