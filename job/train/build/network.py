"""The network of a spec and its data: a built-in one, or one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from job.data.dataset import Dataset
from job.data.encoding.input_info import InputInfo
from job.model.built_in import BuiltIn, Shape
from job.model.deep import Deep
from job.model.network import Network
from job.model.own.code import OwnCode
from job.model.own.network import OwnForward, Task, build_own
from job.model.scaling import Scaling
from job.spec import Arrays, Head, JobSpec, Python


def build_network(spec: JobSpec, data: Dataset) -> Network:
    """A new network, whose scalings are fitted to the training split. Raises InputError."""
    named = spec.data.named if isinstance(spec.data, Arrays) else {}
    shapes = {name: tuple(data.train.inputs[name].shape[1:]) for name in data.inputs}
    indicated = {
        name: np.flatnonzero(data.stats[name].missing).tolist()
        for name, how in named.items()
        if how.missing == "indicator" and name in data.stats
    }
    model = new_network(spec, data.inputs, shapes, indicated, data.folder)
    for name, how in named.items():
        if name in data.stats:
            about, stats, may_miss = data.inputs[name], data.stats[name], how.missing != "refuse"
            scaling = model.scalings[name]
            scaling.fit(str(how.scale), stats, about.whole, about.flags, may_miss=may_miss)
    return model


def new_network(
    spec: JobSpec,
    inputs: Mapping[str, InputInfo],
    shapes: Mapping[str, Shape],
    indicated: Mapping[str, Sequence[int]],
    folder: Path,
) -> Network:
    """A new network, whose scalings are not fitted. Raises InputError.

    inputs, shapes: what each input holds, and its shape in a sample. indicated: by input, the
    features that have another one beside them, which says where they are missing. folder: where
    the spec's relative paths start.
    """
    if isinstance(spec.model, Python):
        return _own_network(spec, spec.model, inputs, shapes, indicated, folder)
    deep = spec.model.experts or any(task.head != Head() for task in spec.tasks)
    kind = Deep if deep else BuiltIn
    return kind(spec.model, spec.tasks, inputs, shapes, indicated)


def _own_network(
    spec: JobSpec,
    model: Python,
    inputs: Mapping[str, InputInfo],
    shapes: Mapping[str, Shape],
    indicated: Mapping[str, Sequence[int]],
    folder: Path,
) -> OwnForward:
    """The network of the user's file, whose scalings are not fitted yet."""
    positions = max((shape[:-1] for shape in shapes.values()), key=lambda p: (prod(p), len(p)))
    tasks = [
        Task(task.name, task.level, positions if task.level == "step" else (), task.head_width)
        for task in spec.tasks
    ]
    scalings = {
        name: Scaling(shape[-1], indicated.get(name, ()))
        for name, shape in shapes.items()
        if not inputs[name].codes
    }
    code = OwnCode(model, folder, "$.model")
    return build_own(code, model.build, model.options, tasks, inputs, scalings, shapes)
