"""The balancer of a spec and its data."""

from __future__ import annotations

from job.balance.base import Balancer
from job.balance.build import build_balancer
from job.data.dataset import Dataset
from job.spec import JobSpec


def balancer(spec: JobSpec, data: Dataset) -> Balancer:
    """The spec's balancer. Raises InputError if torchjd is missing or has no such method."""
    steps = data.train.positions
    sizes = [t.outputs * (steps if t.level == "step" else 1) for t in spec.tasks]
    return build_balancer(spec.balance, spec.task_names, sizes)
