"""Evaluation mode: layers that act in training as in evaluation, or the other way round."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding
from job.diagnose.causes.network.place import listed, place


def findings(case: Case) -> Iterator[Finding]:
    """Findings on layers that stay in evaluation mode, and on evaluations that are random."""
    modes = case.structure.modes
    if modes.still:
        evidence = (
            f"while the network trains, {listed(modes.still)} stay in evaluation mode: a dropout "
            f"drops nothing there, and a BatchNorm keeps the mean 0 and variance 1 of its start, "
            f"so it normalizes nothing"
        )
        remedy = (
            f"let train() put {place(case, modes.still[0])} into training mode: look for .eval() "
            f"in the network, and for a train() of its own"
        )
        yield Finding("evaluation_mode", None, evidence, remedy)
    if modes.spread:
        task, far = max(modes.spread.items(), key=lambda each: each[1])
        first = place(case, modes.random) if modes.random else "its last layer"
        evidence = (
            f"two evaluations of the same samples differ, in the outputs of {task} by {far:.2g} of "
            f"their standard deviation: the network draws random numbers in evaluation too, so its "
            f"validation losses and predictions are worse than it could give, and never the same"
        )
        remedy = (
            f"the first layer with other outputs is {first}: there, or just before it, pass "
            f"training=self.training to dropout(), or use an nn.Dropout"
        )
        yield Finding("evaluation_mode", None, evidence, remedy)
