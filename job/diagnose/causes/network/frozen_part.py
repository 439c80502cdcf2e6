"""Frozen part: layers that hold the random numbers of their start, and do not train."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding
from job.diagnose.causes.network.place import listed, place


def findings(case: Case) -> Iterator[Finding]:
    """A finding if layers are frozen that neither the spec freezes nor training has shaped.

    It closes the tasks with hardly any skill.
    """
    frozen = case.structure.frozen
    if not frozen:
        return
    evidence = (
        f"{listed(frozen)}: requires_grad is off, so training leaves these parameters as they are; "
        f"but what they hold is random, as another seed gives other numbers. What such layers "
        f"pass on is not learned"
    )
    layer = place(case, frozen[0].rpartition(".")[0])
    remedy = (
        f"remove the line that sets requires_grad = False for {layer}; if it is meant, begin with "
        f"trained numbers (model.weights), or say so in model.freeze"
    )
    case.closed.update(case.weak())
    yield Finding("frozen_part", None, evidence, remedy)
