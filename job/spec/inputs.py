"""A named input of the spec's `data` section: which arrays or columns it is, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from job.spec.base import BrokenRule, Section, Text

MASK = "mask"
"""Name under which a network gets the mask of positions; no input may have it."""
InputName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Scaled = Literal["standardize", "robust", "none"]
Missing = Literal["refuse", "mean", "indicator"]


class Input(Section):
    """One named input: an array [N, …], or columns of a table."""

    source: Text | tuple[Text, ...] | None = None
    """Name of the array; null: the input's name. Of a table, a list of columns, by name or by
    pattern."""
    kind: Literal["numbers", "codes", "tokens", "image"] = "numbers"
    """Numbers [N], [N, F] or [N, …, F]; codes of categories, whole numbers or texts, in the same
    shapes, each feature with its own; tokens [N, …], with the same codes at every position; or an
    image [N, H, W] or with an axis of channels."""
    channels: Literal["first", "last"] | None = None
    """Where an image [N, C, H, W] or [N, H, W, C] has its channels; null: it is [N, H, W]."""
    lengths: Text | None = None
    """Name of an array [N] in the data: how many positions of each sample are real, from the first;
    the rest is padding."""
    mask: Text | None = None
    """Name of an array [N, …] in the data: 1 at each real position, 0 at padding."""
    scale: Scaled | None = None
    """How numbers and images are scaled; null: as `data.scale` says."""
    missing: Missing | None = None
    """What a missing value of numbers is; null: as `data.missing` says."""

    @property
    def is_coded(self) -> bool:
        """True if its values are codes, which are embedded."""
        return self.kind in ("codes", "tokens")

    def rules(self) -> Iterator[BrokenRule]:
        """Each field fits the kind."""
        if self.source == ():
            yield BrokenRule(("source",), "must name one column or more", "name the columns")
        if self.channels is not None and self.kind != "image":
            rule = f"{self.kind} have no channels"
            yield BrokenRule(("channels",), rule, 'remove it, or set kind to "image"')
        if not isinstance(self.source, str | None) and self.kind in ("tokens", "image"):
            rule = f"{self.kind} are an array, not a list of columns"
            yield BrokenRule(("source",), rule, "name one array")
        for name in ("scale", "missing"):
            if self.is_coded and getattr(self, name) is not None:
                yield BrokenRule((name,), f"{self.kind} are embedded as they are", f"remove {name}")
        if self.lengths is not None and self.mask is not None:
            rule = "lengths and mask say the same"
            yield BrokenRule(("lengths",), rule, "remove one of the two")
