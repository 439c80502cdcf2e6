"""What is measured: each quantity with its sizes, and how fast its work grows with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.scale import of_data, of_record, of_training
from tests.bench.scale.cost import Costs


class Quantity(NamedTuple):
    """A cost, and the exponents that its work explains."""

    axis: str
    name: str
    sizes: tuple[int, ...]
    measure: Callable[[int, Path, int], Costs]
    """Of a size, a folder for its files, and a number of rounds."""
    work: Mapping[str, float]
    """By unit of its costs."""


LINEAR = {"seconds": 1.0, "memory": 1.0, "bytes": 1.0, "count": 1.0}
SQUARE = dict.fromkeys(LINEAR, 2.0)
STREAMED = LINEAR | {"memory": 0.0}
"""Read in pieces: the memory must not grow."""
CONSTANT = dict.fromkeys(LINEAR, 0.0)
T, K, LAYERS, LENGTH = "T, steps of a window", "K, tasks", "layers", "steps of a run"
OTHERS = {
    (T, "a step, transformer"): SQUARE,  # attention
    (K, "a step"): SQUARE,  # the Gram matrix
    (K, "an epoch's event"): SQUARE,  # the cosines of all pairs
    # A directory gives all its names in any case; a bucket lists none that is known.
    (LENGTH, "a look for new events, when following"): LINEAR | {"count": 0.0},
    # It keeps every epoch's values, and a number for each step.
    (LENGTH, "comparing: outcome"): LINEAR,
}
"""Quantities whose work differs from that of the others beside them."""


def quantities() -> list[Quantity]:
    """All of them, in the order of the table."""
    return [
        *_of("N, samples", of_data.SIZES, of_data.MEASURES),
        *_of(T, of_training.WINDOWS, of_training.OF_WINDOW),
        *_of(K, of_training.TASKS, of_training.OF_TASKS),
        *_of(LAYERS, of_training.DEPTHS, of_training.OF_LAYERS),
        *_of(LAYERS, of_training.DILATIONS, of_training.OF_DILATIONS),
        *_of(LENGTH, of_record.SIZES, of_record.WRITING, CONSTANT),
        *_of(LENGTH, of_record.SIZES, of_record.LISTS),
        *_of(LENGTH, of_record.SIZES, of_record.READERS, STREAMED),
    ]


def _of(
    axis: str,
    sizes: Sequence[int],
    measures: Mapping[str, Callable[[int, Path, int], Costs]],
    work: Mapping[str, float] = LINEAR,
) -> list[Quantity]:
    return [
        Quantity(axis, name, tuple(sizes), measure, OTHERS.get((axis, name), work))
        for name, measure in measures.items()
    ]
