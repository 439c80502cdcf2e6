"""Faults of the data: each changes a problem's arrays, drawing from a generator of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.bench.faults.problems import Arrays

Part = NDArray[np.bool_]


def permute(arrays: Arrays, name: str, share: float = 1.0) -> None:
    """A share of the rows of an array change places with one another."""
    draw = _draw()
    values = arrays[name]
    rows = draw.permutation(len(values))[: round(share * len(values))]
    arrays[name] = values.copy()
    arrays[name][rows] = values[draw.permutation(rows)]


def roll(arrays: Arrays, name: str, by: int = 1) -> None:
    """Each row of an array moves on by some rows."""
    arrays[name] = np.roll(arrays[name], by, 0)


def multiply(arrays: Arrays, name: str, by: float, columns: list[int] | None = None) -> None:
    """Another unit, of all or some columns."""
    values = arrays[name].astype(float)
    values[..., slice(None) if columns is None else columns] *= by
    arrays[name] = values


def add(arrays: Arrays, name: str, number: float) -> None:
    """Another zero."""
    arrays[name] = arrays[name] + number


def outlie(arrays: Arrays, name: str, share: float, by: float) -> None:
    """A share of the rows have values that are wrong by a factor."""
    values = arrays[name].astype(float)
    rows = _draw().permutation(len(values))[: round(share * len(values))]
    values[rows] *= by
    arrays[name] = values


def hold(arrays: Arrays, share: float = 0.2) -> None:
    """An array `part` says which rows are held out, drawn once; 0: train, 1: validation."""
    count = len(arrays["features"])
    arrays["part"] = np.zeros(count, int)
    arrays["part"][_draw().permutation(count)[: round(share * count)]] = 1


def multiply_held(arrays: Arrays, by: float) -> None:
    """Features in another unit where `part` holds out."""
    held = arrays["part"] == 1
    features = arrays["features"].astype(float)
    features[held] *= by
    arrays["features"] = features


def copy_into_held(arrays: Arrays, share: float, but: float = 0.0) -> None:
    """A share of the held-out rows become copies of training rows, with a little noise."""
    draw = _draw()
    held = np.flatnonzero(arrays["part"] == 1)
    held = held[: round(share * len(held))]
    origin = draw.choice(np.flatnonzero(arrays["part"] == 0), len(held), replace=False)
    for name in arrays.keys() - {"part"}:
        arrays[name] = arrays[name].copy()
        arrays[name][held] = arrays[name][origin]
    features = arrays["features"].astype(float)
    features[held] += draw.normal(0, but, features[held].shape) * features.std(0)
    arrays["features"] = features


def show_target(arrays: Arrays, name: str) -> None:
    """The target stands among the features, under another name and in another unit."""
    column = arrays[name].astype(float).reshape(len(arrays[name]), -1) * 3 - 1
    arrays["features"] = np.concatenate([arrays["features"], column], 1)


def split_target(arrays: Arrays, name: str) -> None:
    """Two further features, neither of which tells the target, have it as their sum."""
    target = arrays[name].astype(float)
    noise = _draw().normal(0, 5 * target.std(), len(target))
    arrays["features"] = np.column_stack([arrays["features"], target + noise, -noise])


def blank(arrays: Arrays) -> None:
    """All features are 0, as when files are not found and nobody looks."""
    arrays["features"] = np.zeros_like(arrays["features"])


def keep(arrays: Arrays, count: int) -> None:
    """Some rows, of all arrays, drawn once."""
    rows = _draw().permutation(len(arrays["features"]))[:count]
    _take(arrays, rows)


def thin(arrays: Arrays, name: str, value: int, count: int) -> None:
    """All but some rows of one class are gone."""
    of_class = np.flatnonzero(arrays[name] == value)
    others = np.flatnonzero(arrays[name] != value)
    _take(arrays, np.sort(np.concatenate([others, _draw().permutation(of_class)[:count]])))


def in_order(arrays: Arrays, name: str) -> None:
    """The rows are sorted by an array."""
    _take(arrays, np.argsort(arrays[name], kind="stable"))


def shuffle(arrays: Arrays) -> None:
    """The rows are in a random order."""
    _take(arrays, _draw().permutation(len(arrays["features"])))


def columns(arrays: Arrays, keep: list[int]) -> None:
    """Only some features are there."""
    arrays["features"] = arrays["features"][:, keep]


def one_hot(arrays: Arrays, name: str, classes: int) -> None:
    """A target of classes becomes one of zeros and ones."""
    arrays[name] = np.eye(classes, dtype=int)[arrays[name]]


def _take(arrays: Arrays, rows: NDArray[np.int64]) -> None:
    for name in list(arrays):
        arrays[name] = arrays[name][rows]


def _draw() -> np.random.Generator:
    return np.random.default_rng(17)


DAMAGES: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        permute, roll, multiply, add, outlie, hold, multiply_held, copy_into_held, show_target,
        split_target, blank, keep, thin, in_order, shuffle, columns, one_hot,
    )
}  # fmt: skip
