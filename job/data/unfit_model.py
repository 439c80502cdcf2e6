"""Models that cannot read the shape of a spec's samples, or give what its tasks need."""

from __future__ import annotations

from math import prod

from job.errors import Fault
from job.spec import Conv2d, JobSpec, Mlp


def unfit_model(spec: JobSpec, positions: tuple[int, ...], padded: bool) -> list[Fault]:
    """The faults of a model for samples of these positions; padded: some are padding."""
    model, count = spec.model, prod(positions)
    others = 'set model.kind to "conv1d" or "transformer"'
    faults = []
    if isinstance(model, Mlp) and count > 1:
        rule = f"an mlp gives one output for a sample, not for each of its {count} positions"
        dense = 'set model.kind to "conv2d"' if len(positions) == 2 else others
        faults += [
            Fault(f"$.tasks[{k}].level", '"step"', rule, f'{dense}, or level to "sample"')
            for k, task in enumerate(spec.tasks)
            if task.level == "step"
        ]
    if isinstance(model, Conv2d):
        rule = f"conv2d reads images [N, H, W, C]; the samples have positions {list(positions)}"
        if len(positions) != 2:
            flat = 'set model.kind to "mlp"' if count == 1 else others
            faults.append(Fault("$.model.kind", '"conv2d"', rule, flat))
        elif padded:
            rule = "conv2d has no part of an image left out"
            faults.append(Fault("$.model.kind", '"conv2d"', rule, others))
    return faults
