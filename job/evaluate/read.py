"""Labelled samples for a run: its inputs and targets in a file, and the groups of its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from job.data.arrays import read_arrays
from job.data.bars import read_bars
from job.data.chunks.read import no_rows
from job.data.content import is_table, missing_name, read_content
from job.data.dataset import Split, labelled_split
from job.data.encoding.input_info import FEATURES
from job.data.shards.folder import is_folder, read_shards
from job.data.stored import Samples, encoded_samples
from job.data.tables.columns import open_table
from job.data.values import Place
from job.data.windows import TARGETS, all_windows, label
from job.errors import Fault, InputError
from job.predict import Predictor
from job.predict.lacking import naming_the_file
from job.spec import Arrays, OhlcWindows

MOST = 100
"""Groups, at most."""


def read_split(predictor: Predictor, source: str, folder: Path) -> Split:
    """The samples of a file with their labels, as the run reads its own. Raises InputError."""
    spec, data = predictor.spec, predictor.spec.data
    if isinstance(data, OhlcWindows):
        samples = _windows(data, source, folder)
        return labelled_split(spec, samples, predictor.classes)
    section, skipped = predictor.section(data), dict[str, int]()
    with naming_the_file(source, data):
        content = read_content(spec, section, source, folder, predictor.known)
        for name, encoder in predictor.encoders.items():
            predictor.forms[name].check(name, encoder.about, content.inputs[name], source)
        samples = encoded_samples(spec, content, predictor.encoders, skipped)
        predictor.skipped.update(skipped)
    if not len(samples.starts):
        raise no_rows(source)
    return labelled_split(spec, samples, predictor.classes)


def _windows(data: OhlcWindows, source: str, folder: Path) -> Samples:
    here = data.model_copy(update={"path": source})
    bars = read_bars(folder / source, here)
    features, starts = all_windows(bars, here)
    place = Place("$.data", source, "window")
    targets = label(bars, starts, data)
    return Samples(place, {FEATURES: features}, targets, TARGETS, starts, data.window)


def read_groups(
    data: Arrays, column: str, source: str, folder: Path
) -> dict[str, NDArray[np.int64]]:
    """By group in the order of their names, the rows [n] whose column, or array [N], names it.

    Raises InputError if there is no such column, or too many groups.
    """
    names = _cells(data, column, source, folder)
    groups, inverse = np.unique(names, return_inverse=True)
    if len(groups) > MOST:
        rule, remedy = f"slices are of {MOST} groups at most", "join values to fewer groups"
        where, found = f"{source}, column {column}", f"{len(groups):,} different values"
        raise InputError([Fault(where, found, rule, remedy)])
    return {str(name): np.flatnonzero(inverse == k) for k, name in enumerate(groups)}


def _cells(data: Arrays, column: str, source: str, folder: Path) -> NDArray[np.str_]:
    """[N] texts of a column, empty where a cell is."""
    if is_table(data, source, folder):
        table = open_table(source, folder)
        if column not in table.names:
            raise InputError([missing_name(source, column, table.names)])
        cells = table.columns[table.names.index(column)]
    else:
        wanted = {column}
        if is_folder(source, folder):
            arrays, names = read_shards(source, folder, wanted, wanted, ())
        else:
            arrays, names = read_arrays(source, folder, wanted, wanted)
        if column not in arrays:
            raise InputError([missing_name(source, column, names)])
        values = np.asarray(arrays[column])
        if values.size != len(values):
            found, rule = f"shape {list(values.shape)}", "it must hold one value for each row"
            where = f"{source}, column {column}"
            raise InputError([Fault(where, found, rule, "name an array of one axis")])
        cells = pa.array(values.reshape(-1))
    return np.array(pc.fill_null(pc.cast(cells, pa.string()), "").to_pylist())
