"""stdout as people see it: how wide it is, what characters it shows, what if its reader goes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from job.journal import discard_stdout

PAGE = 100
"""Columns where there is no terminal to ask."""


class Screen(Console):
    """stdout; a run outlives its reader. page: columns where there is no terminal to ask."""

    def __init__(self, page: int = PAGE) -> None:
        super().__init__(highlight=False)
        self.is_ascii = is_ascii(_environment())
        if not self.is_terminal:
            self.width = page

    @property
    def encoding(self) -> str:
        """As the locale says: under one of C Python writes UTF-8 all the same."""
        return "ascii" if self.is_ascii else super().encoding

    def on_broken_pipe(self) -> None:
        """Print no more."""
        self.quiet = True
        discard_stdout()


def is_ascii(environment: Mapping[str, str]) -> bool:
    """Whether the locale is C; where none is named, as in most containers, nothing is known."""
    names = (environment.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    return next((name for name in names if name), "") in ("C", "POSIX")


def _environment() -> Mapping[str, str]:
    """As the process got it: where LC_CTYPE is C, Python has another one by now (PEP 538)."""
    with suppress(OSError):
        given = Path("/proc/self/environ").read_bytes().split(b"\0")
        return dict(os.fsdecode(one).split("=", 1) for one in given if b"=" in one)
    return os.environ
