"""Losses: of each element, of a task, and the constant predictions that minimise them."""

from job.model.losses.task_loss import RANGES, TaskLoss, share_outside

__all__ = ["RANGES", "TaskLoss", "share_outside"]
