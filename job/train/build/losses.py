"""The losses of a spec's tasks."""

from __future__ import annotations

from job.data.dataset import Dataset
from job.model.labels import all_count
from job.model.losses import TaskLoss
from job.model.own.functions import loaded
from job.spec import JobSpec


def task_losses(spec: JobSpec, data: Dataset) -> list[TaskLoss]:
    """The tasks' losses, fitted to the training split.

    A task whose labels are all there is computed as if none could be missing. Raises InputError.
    """
    losses = []
    for k, task in enumerate(spec.tasks):
        complete = all(
            all_count(split.targets[task.name], split.weights.get(task.name))
            for split in (data.train, data.validation)
        )
        losses.append(TaskLoss(loaded(task, data.folder, f"$.tasks[{k}]"), partial=not complete))
        losses[-1].fit(data.train.targets[task.name])
    return losses
