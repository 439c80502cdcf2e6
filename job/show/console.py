"""The console that people read: its width, its characters, and what happens if its reader goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from job.events.log import discard_stdout
from job.show.printable import printable

PAGE = 100
"""Columns of text if the output is no terminal, which has a width of its own."""
WIDE_PAGE = 200
"""The same for tables with many columns."""


class Screen(Console):
    """stdout or stderr for a person. A run outlives its reader.

    Control characters never reach the terminal, whatever strings are printed.
    """

    def __init__(self, page: int = PAGE, **options: Any) -> None:
        """page: columns if the output is no terminal. options: those of rich.console.Console."""
        super().__init__(highlight=False, **options)
        self.is_ascii = is_ascii(_environment())
        if not self.is_terminal:
            self.width = page

    @property
    def encoding(self) -> str:
        """ASCII if the locale is C: Python writes UTF-8 even then."""
        return "ascii" if self.is_ascii else super().encoding

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of anything printed, with printable text."""
        for part in super().render(renderable, options):
            yield part if part.control else part._replace(text=_printable_lines(part.text))

    def on_broken_pipe(self) -> None:
        """Print no more."""
        self.quiet = True
        if not self.stderr:
            discard_stdout()


def _printable_lines(text: str) -> str:
    """The text with its line breaks, but without other control characters."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def literal(text: str) -> str:
    """Markup that prints the text as it is, on one line.

    Control characters go first: what is left of an escape sequence could be markup.
    """
    return escape(printable(text))


def is_ascii(environment: Mapping[str, str]) -> bool:
    """True if the locale is C. If no locale is set, as in most containers, it is unknown."""
    names = (environment.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    return next((name for name in names if name), "") in ("C", "POSIX")


def _environment() -> Mapping[str, str]:
    """The environment that the process began with: Python changes LC_CTYPE from C (PEP 538)."""
    with suppress(OSError):
        given = Path("/proc/self/environ").read_bytes().split(b"\0")
        return dict(os.fsdecode(one).split("=", 1) for one in given if b"=" in one)
    return os.environ
