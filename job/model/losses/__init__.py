"""Losses: of each element, of a task, and the constant predictions that minimise them."""

from job.model.losses.task_loss import RANGES, TaskLoss, Weighed, share_outside

__all__ = ["RANGES", "TaskLoss", "Weighed", "share_outside"]
