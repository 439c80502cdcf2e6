"""What an epoch's event has of each task: losses, drops, skills and the means of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

from job.events import EpochTask
from job.train.evaluate import Losses
from job.train.ledger import Ledger
from job.train.yardsticks import Yardsticks


def epoch_tasks(
    ledger: Ledger,
    yardsticks: Yardsticks,
    splits: Mapping[str, Losses],
    first: Mapping[str, list[float]],
) -> dict[str, EpochTask]:
    """By task. splits: both splits' losses; first: those after epoch 1, [K] in original units."""
    means, cosines = ledger.means(), ledger.cosines()
    errors = yardsticks.train_errors(splits["train"])
    train, validation = (
        _judged(yardsticks, split, splits[split], first[split]) for split in ("train", "validation")
    )
    return {
        name: EpochTask(
            train_loss=splits["train"].transformed[k],
            val_loss=splits["validation"].transformed[k],
            train_loss_original=splits["train"].original[k],
            train_loss_error=errors[k],
            val_loss_original=splits["validation"].original[k],
            **train[k],
            **{f"val_{field}": value for field, value in validation[k].items()},
            cosines=cosines[name],
            saturated=splits["train"].saturated[k],
            metrics=splits["train"].metrics[k],
            val_metrics=splits["validation"].metrics[k],
            **means[name],
        )
        for k, name in enumerate(ledger.tasks)
    }


def _judged(
    yardsticks: Yardsticks, split: str, losses: Losses, first: list[float]
) -> list[dict[str, float | None]]:
    """[K] drops and skills on a split, by the names that `EpochTask` has for them."""
    trivial = yardsticks.trivial(split)
    return [
        {
            "drop": _gain(losses.original[k], first[k]),
            "drop_trivial": _gain(trivial[k], first[k]),
            "skill": skill.value if skill else None,
            "skill_error": skill.error if skill else None,
            "skill_low": skill.low if skill else None,
        }
        for k, skill in enumerate(yardsticks.skills(split, losses))
    ]


def _gain(loss: float, reference: float) -> float:
    """1 − loss / reference; not a number if the reference is 0 or not finite."""
    return 1 - loss / reference if reference and math.isfinite(reference) else math.nan
