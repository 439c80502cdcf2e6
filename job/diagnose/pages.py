"""Every cause has a page in docs/diagnosis/."""

from __future__ import annotations

from job.diagnose.case import Mechanism


def page(mechanism: Mechanism) -> str:
    """The page on a cause, from the top of the repository."""
    return f"docs/diagnosis/{mechanism.replace('_', '-')}.md"
