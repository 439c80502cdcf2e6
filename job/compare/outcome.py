"""What a compared run has measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from job.events import Epoch, GateResult


@dataclass
class Outcome:
    """The result of one run, as far as the tables need it."""

    variant: str
    seed: int
    epochs: list[Epoch] = field(default_factory=list)
    gates: list[GateResult] = field(default_factory=list)
    step_ms: float = math.nan
    """Median over the steps."""
    error: str | None = None
    key: str | None = None
    """`<name>/<run id>` in the store, if it is kept."""
