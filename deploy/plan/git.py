"""The git commit of the checkout that an image is built from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple


class Checkout(NamedTuple):
    """A commit, and whether files differ from it."""

    commit: str | None
    """None without git, or outside a repository."""
    dirty: bool

    def __str__(self) -> str:
        if self.commit is None:
            return "unknown: no git checkout"
        return self.commit[:12] + (", dirty: the image holds more than this commit" * self.dirty)

    @property
    def revision(self) -> str:
        """For the image's label."""
        return (self.commit or "unknown") + ("-dirty" if self.dirty else "")


def checkout(root: Path) -> Checkout:
    """The checkout in a folder."""
    git = shutil.which("git")
    if git is None:
        return Checkout(None, False)

    def output(*arguments: str) -> str | None:
        command = [git, "-C", str(root), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - git, no shell
        return ended.stdout.strip() if ended.returncode == 0 else None

    commit = output("rev-parse", "HEAD")
    return Checkout(commit, bool(commit and output("status", "--porcelain")))
