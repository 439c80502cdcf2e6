"""What a named input holds: numbers, which are scaled, or codes, which are embedded."""

from __future__ import annotations

from dataclasses import dataclass, field

from job.spec import FEATURES, MASK

__all__ = ["FEATURES", "MASK", "InputInfo"]


@dataclass(frozen=True)
class InputInfo:
    """What the F features of an input are, the last axis of its samples."""

    names: tuple[str, ...] = ()
    """[F] of a table's features; () if they have none."""
    flags: tuple[bool, ...] = ()
    """[F] true for a 0/1 feature of a category, which is not scaled."""
    whole: float = 1.0
    """The value that means 1: 255 if the features are bytes."""
    levels: dict[str, list[str]] = field(default_factory=dict)
    """Levels of each column of categories, in the order of their features; of codes, what each code
    from 0 stands for."""
    codes: tuple[int, ...] = ()
    """[F] how many codes each feature has, from 0, if they are codes of things; () for numbers. The
    last one is of everything that the training split lacks."""
    columns: tuple[str, ...] = ()
    """Columns of a table that it is made of, in order; () of an array."""
    texts: tuple[str, ...] = ()
    """Those of its columns, or of its features of codes, whose values are texts."""

    def name(self, i: int) -> str:
        """The name of a feature, for messages."""
        return self.names[i] if self.names else f"feature {i}"
