"""What a run says of itself when it starts."""

from __future__ import annotations

import platform

import torch

from job.events import RunStarted, TaskFacts
from job.train import Training
from job.units import loss_unit
from job.version import VERSION


def started(training: Training, resumed: int | None) -> RunStarted:
    """The event that tells a run's set-up."""
    spec, data, model = training.spec, training.data, training.stepper.model
    cuda = training.device.type == "cuda"
    name = torch.cuda.get_device_name(training.device) if cuda else platform.machine()
    count = f"{training.ranks.world} × " if training.ranks.world > 1 else ""
    return RunStarted(
        name=spec.name,
        spec_hash=spec.content_hash(),
        version=VERSION,
        torch=torch.__version__,
        device=f"{count}{training.device.type} ({name})",
        threads=torch.get_num_threads(),
        parameters=sum(p.numel() for p in model.parameters()),
        shapes={n: list(p.shape) for n, p in model.named_parameters()},
        samples={
            "train": len(data.train.features),
            "validation": len(data.validation.features),
        },
        features=list(data.train.features.shape[1:]),
        rows=data.rows,
        skipped=data.skipped,
        steps=training.total_steps,
        resumed_from=resumed,
        tasks={
            loss.task.name: TaskFacts(
                level=loss.task.level,
                outputs=loss.task.outputs,
                unit=loss.task.unit,
                loss_unit=loss_unit(loss.task.loss.kind, loss.task.unit),
                shift=loss.shift.tolist(),
                scale=loss.scale.tolist(),
                baseline_constant=base.constant["train"],
                baseline_per_position=base.per_position["train"] if base.per_position else None,
            )
            for loss, base in zip(training.losses, training.baselines, strict=True)
        },
    )
