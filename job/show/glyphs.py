"""The space and characters of a terminal, and drawings one character high: curves and bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size


class Glyphs(NamedTuple):
    """The characters for drawing that a terminal has."""

    levels: str
    """Of a curve, from its lowest value to its highest."""
    parts: str
    """Of a bar's last character, from nearly nothing to all of it."""
    done: str
    """Of a progress bar: what is done."""
    left: str
    """Of a progress bar: what is left."""
    dot: str
    """Between two facts."""
    more: str
    """Where a text is cut."""
    square: str
    """The exponent 2."""
    around: str
    """Between a value and its error."""

    def replace(self, text: str) -> str:
        """A text of this program with the characters that the terminal has."""
        for name in ("dot", "square", "around"):
            text = text.replace(getattr(UNICODE, name), getattr(self, name))
        return text


UNICODE = Glyphs("▁▂▃▄▅▆▇█", "▏▎▍▌▋▊▉█", "━", "─", " · ", "…", "²", "±")
ASCII = Glyphs(".:-=+*#@", "#", "=", "-", ", ", "~", "^2", "+-")
BROKEN = "x"
"""In a curve, a value that is not finite."""


class Viewport(NamedTuple):
    """The part of a terminal that a screen may fill."""

    width: int
    height: int | None
    """None: as many lines as needed."""
    unicode: bool

    @property
    def glyphs(self) -> Glyphs:
        """The characters that it has."""
        return UNICODE if self.unicode else ASCII

    def cut(self, text: str, width: int | None = None) -> str:
        """The text, cut to so many columns; without a number, to the whole width."""
        width = self.width if width is None else width
        if cell_len(text) <= width:
            return text
        return set_cell_size(text, width - 1) + self.glyphs.more


def curve(values: Sequence[float | None], width: int, glyphs: Glyphs) -> str:
    """A curve of at most `width` characters, each the mean of its part of the values.

    None and values that are not finite are drawn as BROKEN: no explosion is averaged away.
    """
    cells = min(width, len(values))
    edges = [len(values) * k // cells for k in range(cells + 1)] if cells else []
    means = [_mean(values[a:b]) for a, b in pairwise(edges)]
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    top = len(glyphs.levels) - 1
    scale = top / (high - low) if high > low else 0.0
    return "".join(
        BROKEN if mean is None else glyphs.levels[min(top, round((mean - low) * scale))]
        for mean in means
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if a value is not finite."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if len(known) == len(values) else None


def bar(share: float | None, width: int, glyphs: Glyphs) -> str:
    """A bar that a share of 1 makes `width` characters long; any share above 0 is visible."""
    if share is None or not share > 0:
        return ""
    n = len(glyphs.parts)
    units = max(1, min(width * n, round(share * width * n)))
    whole, rest = divmod(units, n)
    return glyphs.parts[-1] * whole + (glyphs.parts[rest - 1] if rest else "")


def progress_bar(share: float, width: int, glyphs: Glyphs) -> tuple[str, str]:
    """The two parts of a progress bar: what is done, what is left."""
    done = min(width, max(0, int(share * width)))
    return glyphs.done * done, glyphs.left * (width - done)
