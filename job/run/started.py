"""The first event of an attempt: the run's set-up."""

from __future__ import annotations

import platform

import torch

from job.data.encoding.categories import MOST
from job.data.encoding.input_info import FEATURES
from job.events import RunStarted, TaskSetup
from job.spec import Arrays
from job.spec.losses import loss_unit
from job.train.trainer import Trainer
from job.version import VERSION


def started(training: Trainer, resumed: int | None) -> RunStarted:
    """The `run.started` event; resumed: step of the checkpoint that the run goes on from."""
    spec, data, model = training.spec, training.data, training.stepper.model
    shapes = {name: list(data.train.inputs[name].shape[1:]) for name in data.inputs}
    cuda = training.device.type == "cuda"
    name = torch.cuda.get_device_name(training.device) if cuda else platform.machine()
    count = f"{training.ranks.world} × " if training.ranks.world > 1 else ""
    return RunStarted(
        name=spec.name,
        spec_hash=spec.content_hash(),
        control=spec.control,
        version=VERSION,
        torch=torch.__version__,
        device=f"{count}{training.device.type} ({name})",
        threads=torch.get_num_threads(),
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        frozen=[n for n, p in model.named_parameters() if not p.requires_grad],
        compile_seconds=training.compile_seconds,
        pretrained=training.pretrained,
        origin=training.origin,
        shapes={n: list(p.shape) for n, p in model.named_parameters()},
        samples={
            "train": len(data.train),
            "validation": len(data.validation),
            **({"test": len(data.test)} if data.test else {}),
        },
        evaluated=len(training.yardsticks.chosen),
        features=[data.train.positions, sum(shape[-1] for shape in shapes.values())],
        inputs={} if list(shapes) == [FEATURES] and len(shapes[FEATURES]) == 2 else shapes,
        feature_ranges=data.feature_ranges if isinstance(spec.data, Arrays) else {},
        levels={k: v for k, v in data.levels.items() if len(v) <= MOST},
        rows=data.rows,
        skipped=data.skipped,
        steps=training.total_steps,
        parts=training.parts,
        ranks=training.ranks.world,
        effective_batch=training.effective_batch,
        resumed_from=resumed,
        tasks={
            loss.task.name: TaskSetup(
                level=loss.task.level,
                outputs=loss.task.outputs,
                classes=data.classes.get(loss.task.name, []),
                unit=loss.task.unit,
                loss_unit=loss_unit(loss.task.loss.kind, loss.task.unit),
                shift=loss.shift.tolist(),
                scale=loss.scale.tolist(),
                baseline_constant=base.constant["train"],
                baseline_per_position=base.per_position["train"] if base.per_position else None,
                trivial={split: base.strongest(split) for split in ("train", "validation")},
                unmeasurable={
                    split: why[loss.task.name]
                    for split, why in training.yardsticks.unmeasurable.items()
                    if loss.task.name in why
                },
            )
            for loss, base in zip(training.losses, training.yardsticks.baselines, strict=True)
        },
    )
