"""What a terminal has room for, and small drawings of a character's height: curves and bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size


class Glyphs(NamedTuple):
    """What a terminal can show."""

    levels: str
    """Of a curve, from its lowest value to its highest."""
    parts: str
    """Of a bar's last character, from nearly nothing to all of it."""
    done: str
    left: str
    """Of a progress bar."""
    dot: str
    """Between two facts."""
    more: str
    """Where something is cut off."""
    square: str

    def of(self, text: str) -> str:
        """A text of ours with nothing that the terminal cannot show."""
        return text.replace(UNICODE.dot, self.dot).replace(UNICODE.square, self.square)


UNICODE = Glyphs("▁▂▃▄▅▆▇█", "▏▎▍▌▋▊▉█", "━", "─", " · ", "…", "²")
ASCII = Glyphs(".:-=+*#@", "#", "=", "-", ", ", "~", "^2")
BROKEN = "x"
"""In a curve, where a value is not finite."""


class Room(NamedTuple):
    """What a terminal offers."""

    width: int
    height: int | None
    """None: as many lines as it takes."""
    unicode: bool

    @property
    def glyphs(self) -> Glyphs:
        """What it can show."""
        return UNICODE if self.unicode else ASCII

    def cut(self, text: str, width: int | None = None) -> str:
        """A text as it fits, the whole width or so many columns."""
        width = self.width if width is None else width
        if cell_len(text) <= width:
            return text
        return set_cell_size(text, width - 1) + self.glyphs.more


def curve(values: Sequence[float | None], width: int, glyphs: Glyphs) -> str:
    """A curve of at most `width` characters, each the mean of what falls on it.

    None and what is not finite are shown as BROKEN: nothing that exploded is averaged away.
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
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if len(known) == len(values) else None


def bar(share: float | None, width: int, glyphs: Glyphs) -> str:
    """A bar of `width` characters at a share of 1; what is more than 0 shows."""
    if share is None or not share > 0:
        return ""
    n = len(glyphs.parts)
    units = max(1, min(width * n, round(share * width * n)))
    whole, rest = divmod(units, n)
    return glyphs.parts[-1] * whole + (glyphs.parts[rest - 1] if rest else "")


def progress(share: float, width: int, glyphs: Glyphs) -> tuple[str, str]:
    """A progress bar's two parts: what is done, what is left."""
    done = min(width, max(0, int(share * width)))
    return glyphs.done * done, glyphs.left * (width - done)
