"""The spec's `optimizer` section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from job.spec.base import BrokenRule, Fraction, LearningRate, Section, Text

Decay = Annotated[float, Field(ge=0)]


class Rates(Section):
    """What every optimizer has."""

    LATER = ("rates",)
    lr: LearningRate = 1e-3
    """Learning rate."""
    head_lr: LearningRate | None = None
    """Learning rate of the heads; null: lr."""
    rates: dict[Text, LearningRate] = {}
    """Learning rate by patterns of parameters' names, such as {"trunk.encoder.*": 1e-4}; the first
    pattern that matches counts. `run.started` has the names."""


class AdamW(Rates):
    """AdamW (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    """AdamW."""
    weight_decay: Decay = 0.01
    """Decoupled weight decay."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""


class Adam(Rates):
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["adam"]
    """Adam."""
    weight_decay: Decay = 0.0
    """Factor of the parameters that is added to their gradients."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""


class Sgd(Rates):
    """Stochastic gradient descent, with momentum (Sutskever et al. 2013)."""

    kind: Literal["sgd"]
    """Stochastic gradient descent."""
    lr: LearningRate = 0.1
    """Learning rate."""
    momentum: Fraction = 0.9
    """Share of the last update's direction that is kept; 0: none."""
    nesterov: bool = False
    """Nesterov's momentum: the gradient counts as if the parameters had moved on already."""
    weight_decay: Decay = 0.0
    """Factor of the parameters that is added to their gradients."""

    def rules(self) -> Iterator[BrokenRule]:
        """Nesterov's momentum is a momentum."""
        if self.nesterov and not self.momentum:
            yield BrokenRule(("momentum",), "nesterov needs a momentum above 0", "set it to 0.9")


class Muon(Rates):
    """Muon (Jordan et al. 2024) for the trunk's matrices, AdamW for all else.

    Its updates have the size of AdamW's (Liu et al. 2025, section 2.2), so that one learning rate
    and one weight decay serve both.
    """

    kind: Literal["muon"]
    """Muon for the trunk's matrices but embeddings, AdamW for all other parameters."""
    momentum: Fraction = 0.95
    """Decay of the running mean of a matrix's gradient."""
    nesterov: bool = True
    """Nesterov's momentum: the gradient counts as if the parameters had moved on already."""
    weight_decay: Decay = 0.01
    """Decoupled weight decay."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Of AdamW: decay of the running means of the gradient and of its square."""


def _kind(optimizer: object) -> object:
    """The kind of an optimizer; AdamW if it is not named."""
    if isinstance(optimizer, dict):
        return optimizer.get("kind", "adamw")
    return getattr(optimizer, "kind", "adamw")


Optimizer = Annotated[
    Annotated[AdamW, Tag("adamw")]
    | Annotated[Adam, Tag("adam")]
    | Annotated[Sgd, Tag("sgd")]
    | Annotated[Muon, Tag("muon")],
    Discriminator(
        _kind,
        custom_error_type="optimizer_kind",
        custom_error_message="the kind of an optimizer is one of adamw, adam, sgd, muon",
    ),
]
