"""A network as a program of torch.export and as ONNX: each file is read and checked against it."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from job.errors import InputError
from job.package.served import MOST_RELATIVE, Difference, Served, difference

PROGRAM, ONNX = "model.pt2", "model.onnx"
EXAMPLES = 3
"""Samples with which a network is traced; one alone would be taken for a constant."""
Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Exported(NamedTuple):
    """One format: a file that was written, or why it was not."""

    file: str
    difference: Difference | None = None
    """None if it was not checked."""
    why: str = ""
    """Why it is not there, or was not checked; "" if it is and was."""

    @property
    def is_written(self) -> bool:
        """True if the file is there."""
        return self.difference is not None or self.why.startswith(UNCHECKED)


UNCHECKED = "not checked"


def export(served: Served, samples: Sequence[Tensor], tasks: Sequence[str], folder: Path,
           batch: int) -> list[Exported]:  # fmt: skip
    """Write both formats to a folder, as far as the network allows.

    samples: the inputs [N, …] of N samples, on which both are checked, `batch` at a time. tasks:
    names of the outputs.
    """
    with torch.no_grad(), _quiet():
        parts = [[x[i : i + batch] for x in samples] for i in range(0, len(samples[0]), batch)]
        ours = [served(*part) for part in parts]
        path = folder / PROGRAM
        try:
            program = _program(served, samples)
            torch.export.save(program, path)
            module = torch.export.load(path).module()  # not every program that is saved can be read
            kept = _kept(PROGRAM, _off(lambda part: module(*part), parts, ours))
        except Exception as error:  # whatever the user's network does: the reason is told
            path.unlink(missing_ok=True)
            why = _reason(error)
            return [Exported(PROGRAM, why=why), Exported(ONNX, why=f"it needs {PROGRAM}")]
        if not kept.is_written:
            path.unlink()
        return [kept, _onnx(program, served.inputs, tasks, parts, ours, folder)]


def _program(served: Served, samples: Sequence[Tensor]) -> ExportedProgram:
    """The network for batches of any size."""
    rows = torch.arange(EXAMPLES) % len(samples[0])
    sizes = ([{0: torch.export.Dim.DYNAMIC} for _ in samples],)
    examples = tuple(x[rows] for x in samples)
    return torch.export.export(served, examples, dynamic_shapes=(tuple(sizes[0]),))


def _onnx(
    program: ExportedProgram,
    inputs: Sequence[str],
    tasks: Sequence[str],
    parts: Sequence[Sequence[Tensor]],
    ours: Sequence[Sequence[Tensor]],
    folder: Path,
) -> Exported:
    lacking = [n for n in ("onnx", "onnxscript") if importlib.util.find_spec(n) is None]
    if lacking:
        needed = "pip install 'evengrad[package]'"
        return Exported(ONNX, why=f"no {' and '.join(lacking)} here: {needed}")
    path = folder / ONNX
    try:
        torch.onnx.export(
            program.run_decompositions({torch.ops.aten.cumprod.default: running_product}),
            f=path,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=list(inputs),
            output_names=list(tasks),
        )
        if importlib.util.find_spec("onnxruntime") is None:
            return Exported(ONNX, why=f"{UNCHECKED}, as there is no onnxruntime here")
        kept = _kept(ONNX, _off(_session(path), parts, ours))
    except Exception as error:
        kept = Exported(ONNX, why=_reason(error))
    if not kept.is_written:
        path.unlink(missing_ok=True)
    return kept


def running_product(x: Tensor, dim: int) -> Tensor:
    """`x.cumprod(dim)`, which ONNX lacks, as single products."""
    return torch.stack(list(accumulate(x.unbind(dim), torch.mul)), dim)


def _session(path: Path) -> Run:
    """What runs an ONNX file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(part: Sequence[Tensor]) -> Sequence[Tensor]:
        feeds = {name: x.numpy() for name, x in zip(names, part, strict=True)}
        return [torch.from_numpy(np.asarray(y)) for y in session.run(None, feeds)]

    return run


def _off(
    run: Run, parts: Sequence[Sequence[Tensor]], ours: Sequence[Sequence[Tensor]]
) -> Difference:
    """The largest difference over all parts, and for a single sample."""
    each = [difference(mine, run(part)) for part, mine in zip(parts, ours, strict=True)]
    one = difference([y[:1] for y in ours[0]], run([x[:1] for x in parts[0]]))
    return Difference(*(max(values) for values in zip(*each, one, strict=True)))


def _kept(file: str, off: Difference) -> Exported:
    if off.relative <= MOST_RELATIVE:
        return Exported(file, off)
    why = f"its predictions are off by {off.absolute:.3g}, more than float32 explains"
    return Exported(file, why=why)


def _reason(error: Exception) -> str:
    """The first line of an error that says something."""
    wrappers = (InputError, torch.onnx.errors.OnnxExporterError)
    while isinstance(error, wrappers) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, torch's exporters print and warn nothing: what fails is told in one line."""
    loggers: list[Any] = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
