"""Whether the validation split can tell what a search maximizes."""

from __future__ import annotations

from job.data.dataset import Dataset
from job.errors import Fault, InputError
from job.search.objective import Objective
from job.spec import JobSpec
from job.train.build.losses import task_losses
from job.train.yardsticks import Yardsticks


def check_measurable(spec: JobSpec, data: Dataset, objective: Objective) -> None:
    """Raises InputError if the validation split cannot tell a skill that the objective needs."""
    yardsticks = Yardsticks(task_losses(spec, data), data)
    for task, why in yardsticks.unmeasurable["validation"].items():
        if task in objective.needed:
            rule = f"the validation split cannot tell its skill: {why}"
            remedy = "hold out more samples, or name another --objective"
            raise InputError([Fault("--objective", f"task {task}", rule, remedy)])
