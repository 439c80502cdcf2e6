"""Small problems on real data: arrays and a sound spec for each, which the faults are put into.

The data comes with scikit-learn. A problem's arrays are a copy that a fault may change; its spec
trains in a second or two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

Json = Any
Arrays = dict[str, NDArray[Any]]
DATA = "data.npz"
STANDARD = {"kind": "standardize"}
SPEC: Json = {
    "data": {"kind": "arrays", "path": DATA},
    "model": {"kind": "mlp", "hidden": [32], "projection": 32},
    "optimizer": {"kind": "adamw", "lr": 0.005},
    "train": {"epochs": 30, "batch_size": 32, "device": "cpu", "threads": 1},
}


class Problem(NamedTuple):
    """Arrays by name, and a spec that learns its tasks."""

    arrays: Arrays
    spec: Json


def digits() -> Problem:
    """600 images of digits: which digit, and at which height its ink lies."""
    found = datasets.load_digits()
    images = found.images[:600]
    ink = (images.sum(2) * np.arange(8)).sum(1) / images.sum((1, 2))
    arrays = {"features": images.reshape(600, 64), "digit": found.target[:600], "height": ink}
    return Problem(arrays, spec_of("digits", classes("digit", 10), number("height")))


def parity() -> Problem:
    """600 images of digits: whether the digit is odd, which no linear map tells."""
    arrays = digits().arrays
    arrays = {"features": arrays["features"], "odd": arrays["digit"] % 2}
    return Problem(arrays, spec_of("parity", binary("odd")))


def wine() -> Problem:
    """178 wines by 12 measurements: the cultivar, and the alcohol in percent."""
    found = datasets.load_wine()
    x = found.data
    arrays = {"features": x[:, 1:], "cultivar": found.target, "alcohol": x[:, 0]}
    spec = spec_of("wine", classes("cultivar", 3), number("alcohol"))
    spec["train"]["epochs"] = 15  # with more of them it learns its few samples by heart
    return Problem(arrays, spec)


def proline() -> Problem:
    """178 wines by 12 measurements: the cultivar, and the proline, 278 to 1680 mg/l."""
    found = datasets.load_wine()
    x = found.data
    arrays = {"features": x[:, :-1], "cultivar": found.target, "proline": x[:, -1]}
    return Problem(arrays, spec_of("proline", classes("cultivar", 3), number("proline")))


def tumours() -> Problem:
    """569 tumours by 20 measurements: whether it is malignant, and its largest radius."""
    found = datasets.load_breast_cancer()
    x = found.data
    arrays = {"features": x[:, :20], "malignant": 1 - found.target, "radius": x[:, 20]}
    return Problem(arrays, spec_of("tumours", binary("malignant"), number("radius")))


def diabetes() -> Problem:
    """442 patients by 9 measurements: progress of the disease, and a ratio of blood lipids."""
    found = datasets.load_diabetes(scaled=False)
    x = found.data
    arrays = {"features": np.delete(x, 7, 1), "progress": found.target, "lipids": x[:, 7]}
    return Problem(arrays, spec_of("diabetes", number("progress"), number("lipids")))


def iris() -> Problem:
    """150 flowers by 3 lengths: the species, and the width of the petal."""
    found = datasets.load_iris()
    arrays = {
        "features": found.data[:, :3],
        "species": found.target,
        "petal": found.data[:, 3],
    }
    return Problem(arrays, spec_of("iris", classes("species", 3), number("petal")))


def spec_of(name: str, *tasks: Json) -> Json:
    """A spec of a small network for these tasks."""
    return {"name": name, **copy.deepcopy(SPEC), "tasks": list(tasks)}


def classes(name: str, count: int) -> Json:
    """A task of classes."""
    return {"name": name, "level": "sample", "outputs": count, "loss": {"kind": "cross_entropy"}}


def binary(name: str) -> Json:
    """A task of two classes, with one output."""
    return {"name": name, "level": "sample", "loss": {"kind": "binary_cross_entropy"}}


def number(name: str) -> Json:
    """A task of one number, standardized."""
    return {"name": name, "level": "sample", "loss": {"kind": "mse"}, "transform": STANDARD}


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "digits": digits,
    "parity": parity,
    "wine": wine,
    "proline": proline,
    "tumours": tumours,
    "diabetes": diabetes,
    "iris": iris,
}
