"""What a run is worth: which tasks beat the trivial prediction on the validation split."""

from __future__ import annotations

import math
from collections.abc import Mapping

from job.events.types import Epoch, Worth


def worth(epoch: Epoch, unmeasurable: Mapping[str, str]) -> dict[str, Worth]:
    """Each task's worth after an epoch; unmeasurable: why the validation split cannot tell one."""
    found = {}
    for name, task in epoch.tasks.items():
        if task.val_skill is None or task.val_skill_error is None or task.val_skill_low is None:
            found[name] = Worth(beats=False, why=unmeasurable.get(name))
        elif not math.isfinite(task.val_skill):
            lost = not math.isfinite(task.val_loss_original)
            why = "its loss is not finite" if lost else "the trivial prediction has a loss of 0"
            found[name] = Worth(beats=False, why=why)
        else:
            found[name] = Worth(
                beats=task.val_skill_low > 0, skill=task.val_skill, error=task.val_skill_error
            )
    return found
