"""The spec's `train.schedule`: how the learning rate changes during a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from job.spec.base import PLAIN, Count, Fraction, Section

Factor = Annotated[float, Field(gt=0, lt=1)]


class Steps(Section):
    """The learning rate falls by a factor every few epochs."""

    kind: Literal["step"]
    """A fall every few epochs."""
    every: Count
    """Epochs between two falls."""
    factor: Factor = 0.1
    """What the rate is multiplied by."""


class Plateau(Section):
    """The learning rate falls by a factor when validation does not improve any more."""

    kind: Literal["plateau"]
    """A fall after epochs without a new best validation loss."""
    task: str = "*"
    """The task to watch, or `*` for the mean of all tasks' losses relative to epoch 1."""
    patience: Count = 5
    """Epochs without a new best value, counted anew after a fall."""
    factor: Factor = 0.1
    """What the rate is multiplied by."""
    least: Fraction = 0.0
    """The rate falls to this share of its base at most."""


def _form(schedule: object) -> object:
    """The kind of a schedule; PLAIN for one that is a word."""
    if isinstance(schedule, dict):
        return schedule.get("kind")
    return getattr(schedule, "kind", PLAIN)


Schedule = Annotated[
    Annotated[Literal["constant", "cosine", "one_cycle"], Tag(PLAIN)]
    | Annotated[Steps, Tag("step")]
    | Annotated[Plateau, Tag("plateau")],
    Discriminator(_form),
]


class Ema(Section):
    """An average of the network over the steps (Polyak and Juditsky 1992), which is evaluated."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Share of the average that a step keeps; in the first steps less: (1 + steps) / (10 + steps).
    """


class Accumulate(Section):
    """Batches that are larger than what fits into memory at once."""

    steps: Annotated[int, Field(ge=2, le=65536)]
    """Parts of batch_size samples each whose gradients make one update: the effective batch has
    batch_size × steps samples. A last, smaller batch is used as well."""
    weights: Literal["previous", "exact"] = "previous"
    """Weights of the tasks, where they depend on losses or gradients: those that the batch before
    gave, or those of the batch itself, which costs one more pass."""
