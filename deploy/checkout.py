"""The checkout that an image is built from, as git knows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple


class Checkout(NamedTuple):
    """A commit, and whether the files are as it has them."""

    commit: str | None
    """None where git or its folder is missing."""
    dirty: bool

    def __str__(self) -> str:
        if self.commit is None:
            return "unknown: no git checkout"
        return self.commit[:12] + (", dirty: the image holds more than this commit" * self.dirty)


def checkout(root: Path) -> Checkout:
    """Of a folder."""
    git = shutil.which("git")
    if git is None:
        return Checkout(None, False)

    def ask(*arguments: str) -> str | None:
        command = [git, "-C", str(root), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - git, no shell
        return ended.stdout.strip() if ended.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return Checkout(commit, bool(commit and ask("status", "--porcelain")))
