"""What a run is worth: which tasks surely beat the trivial prediction on the validation split."""

from __future__ import annotations

import math
from typing import Any

import pytest

from job.events import Epoch, EpochTask, Worth
from job.events.worth import worth

WHY = "it has 3 of the 8 samples that are needed"


def worth_of(**values: float | None) -> Worth:
    """The worth of a task with these values, excellent on the training split."""
    every: dict[str, Any] = dict.fromkeys(EpochTask.model_fields, 0.9)
    every |= {"cosines": {}, "metrics": {}, "val_metrics": {}}
    task = EpochTask.model_validate(every | values)
    epoch = Epoch(epoch=1, step=1, tasks={"a": task}, seconds=1.0, samples_per_second=1.0)
    found = worth(epoch, {"a": WHY})
    assert found.keys() == {"a"}
    return found["a"]


@pytest.mark.parametrize(
    ("skill", "low", "beats"),
    [(0.3, 0.2, True), (0.3, 1e-9, True), (0.3, 0.0, False), (0.3, -0.1, False), (-1, -2, False)],
)
def test_only_a_sure_skill_is_worth_something(skill: float, low: float, beats: bool) -> None:
    """A task beats the trivial prediction if the lower end of its interval is above 0."""
    found = worth_of(val_skill=skill, val_skill_error=0.1, val_skill_low=low)
    assert found == Worth(beats=beats, skill=skill, error=0.1)


def test_a_task_without_a_skill_says_why() -> None:
    """Because the split cannot tell, or because a loss is not finite or the trivial one 0."""
    untold = worth_of(val_skill=None, val_skill_error=None, val_skill_low=None)
    assert untold == Worth(beats=False, why=WHY)
    lost = worth_of(val_skill=-math.inf, val_skill_low=math.nan, val_loss_original=math.inf)
    assert lost == Worth(beats=False, why="its loss is not finite")
    perfect = worth_of(val_skill=math.nan, val_skill_low=math.nan, val_loss_original=0.0)
    assert perfect == Worth(beats=False, why="the trivial prediction has a loss of 0")
