"""What a diagnosis reports while it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from job.diagnose.case import Finding


class Watch:
    """Takes what happens; this one shows nothing."""

    def trying(self, what: str) -> None:
        """A probe begins; `what` it tries, in words."""

    def step(self, done: float) -> None:
        """A share of the present probe is done."""

    def finding(self, finding: Finding) -> None:
        """There is a finding; a later measurement may still withdraw its edits."""
