"""The causes inside the network, in the order in which one hides the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from job.diagnose.case import Case, Finding
from job.diagnose.causes.network import (
    batch_norm,
    constant_output,
    dead_units,
    evaluation_mode,
    frozen_part,
    output_range,
    probabilities,
    twin_units,
    vanishing,
)

Cause = Callable[[Case], Iterator[Finding]]

STRUCTURE: tuple[Cause, ...] = (
    frozen_part.findings,
    evaluation_mode.findings,
    twin_units.findings,
    dead_units.at_start,
    constant_output.always,
    probabilities.findings,
    output_range.findings,
)
"""What no setting of the training can mend; before all else."""
ACTIVITY: tuple[Cause, ...] = (
    batch_norm.findings,
    dead_units.died,
    vanishing.exploding,
    vanishing.vanishing,
    constant_output.at_end,
)
"""What scale and learning rate may be the reason of; after those."""
