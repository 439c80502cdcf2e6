"""Constant output: a head that gives the same for every sample, as if it had a bias alone."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding
from job.diagnose.causes.network.place import head, place
from job.diagnose.causes.network.vanishing import lost_at
from job.diagnose.inside.signals import Signals

CONSTANT = 1e-5
"""Standard deviation of the outputs over the samples, below which they are the same."""


def always(case: Case) -> Iterator[Finding]:
    """Findings on tasks whose outputs are the very same before training and after it.

    A signal that fades from layer to layer is left to another cause.
    """
    start, end = case.at_start.signals, case.first.at_end.signals
    for name in case.not_learning():
        layer = lost_at(start.layers, name)
        fades = layer is not None and layer.feeds and layer.signal > 0
        if start.outputs[name][1] == end.outputs[name][1] == 0 and not fades:
            yield _constant(case, name, end)


def at_end(case: Case) -> Iterator[Finding]:
    """Findings on tasks whose outputs are constant with the edits so far."""
    end = case.now.at_end.signals
    for name in case.not_learning():
        if end.outputs[name][1] < CONSTANT:
            yield _constant(case, name, end)


def _constant(case: Case, name: str, at: Signals) -> Finding:
    """The finding on a task, which it closes."""
    case.closed.add(name)
    size, _ = at.outputs[name]
    evidence = (
        f"its outputs are the same for all samples, {size:.3g} in size, after "
        f"{len(case.now.steps)} steps: nothing of the features reaches them, so the task can "
        f"learn one number alone"
    )
    layer = lost_at(at.layers, name)
    if layer is None or not layer.feeds:
        what, where = "; all layers still tell the samples apart", head(case)
    elif layer.entry is not None and layer.entry[1] == 0:
        what = f"; what {layer.name} reads is the same for all of them already"
        where = f"front of {place(case, layer.name)}"
    else:
        what = f"; {layer.name} is the first layer that makes the same of all of them"
        where = place(case, layer.name)
    remedy = (
        f"look in {where} for what throws the features away: a softmax over a single output, a "
        f"mean over the batch, a product with 0, a .detach(), or an input that is not read"
    )
    return Finding("constant_output", name, evidence + what, remedy)
