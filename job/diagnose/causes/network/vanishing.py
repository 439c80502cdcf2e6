"""Vanishing and exploding: what passes through the layers shrinks to nothing, or grows too large.

Forwards that is how far a layer's outputs differ between samples; backwards, the gradient (Glorot
and Bengio 2010; He et al. 2015).
"""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding
from job.diagnose.causes.network.place import place
from job.diagnose.inside.signals import Layer

LOST = 1e-3
"""Part of a layer's outputs that differs between samples, below which its signal is lost."""
FADED = 1e-6
"""A gradient (relative to its weights) this much smaller than that of another layer is lost."""
GROWN = 1e4
"""Factor by which outputs may be larger than what enters the network."""
SOUND = (
    "use a ReLU or GELU in place of a sigmoid or tanh, put a LayerNorm in front of each layer or "
    "add its input to its output (x + layer(x)), and start the weights as torch does"
)


def lost_at(layers: list[Layer], task: str) -> Layer | None:
    """The first layer with weights from which on a task reads nearly the same of all samples."""
    mine = [layer for layer in layers if task in layer.gradients]
    lost = [i for i in range(len(mine)) if all(map(_is_lost, mine[i:]))]
    return mine[lost[0]] if lost else None


def _is_lost(layer: Layer) -> bool:
    return layer.size == 0 or layer.signal < LOST * layer.size


def vanishing(case: Case) -> Iterator[Finding]:
    """Findings on tasks without skill for which a layer's signal, or its gradient, is lost."""
    lost: dict[str, list[str]] = {}
    for task in case.not_learning():
        layer = lost_at(case.now.at_end.signals.layers, task)
        if layer is not None and layer.feeds and layer.signal > 0:
            lost.setdefault(layer.name, []).append(task)
    for layer in case.now.at_end.signals.layers:
        if layer.name in lost:
            case.closed.update(lost[layer.name])
            yield _lost(case, layer, lost[layer.name])
    for task in case.not_learning():
        reached = [each for each in case.now.at_end.signals.layers if each.gradients.get(task)]
        if len(reached) < 2:
            continue
        least = min(reached, key=lambda each: each.gradients[task])
        most = max(reached, key=lambda each: each.gradients[task])
        # A branch alone, such as an expert that a gate has closed, keeps nothing from the layers
        # in front of it.
        front = reached[: reached.index(least) + 1]
        if all(each.gradients[task] < FADED * most.gradients[task] for each in front):
            case.closed.add(task)
            yield _faded(case, task, least, most)


def exploding(case: Case) -> Iterator[Finding]:
    """A finding if a layer makes far larger what enters the network, at its start.

    That is how far its outputs differ between samples: they may all be far off, as a target is.
    """
    layers = case.at_start.signals.layers
    if not layers or not (case.first.not_finite or case.not_learning()):
        return
    enters = layers[0].entry[0] if layers[0].entry is not None else layers[0].size
    grown = [layer for layer in layers if not layer.signal <= GROWN * max(enters, 1.0)]
    if not grown:
        return
    first = grown[0]
    evidence = (
        f"before the first step, {layers[0].name} reads numbers of size {enters:.2g}, and the "
        f"outputs of {first.name} have the size {first.size:.2g} (root mean squares): each layer "
        f"makes them larger. The losses and gradients are as much too large, so that steps leap"
    )
    remedy = (
        f"look at the layers up to {place(case, first.name)}: start their weights smaller, as "
        f"torch does by itself, or put a LayerNorm between them"
    )
    case.closed.update(case.not_learning())
    yield Finding("exploding", None, evidence, remedy)


def _lost(case: Case, layer: Layer, tasks: list[str]) -> Finding:
    differ = layer.signal / layer.size if layer.size else 0.0
    evidence = (
        f"what {layer.name} ({layer.kind}) makes of different samples is nearly the same: it "
        f"differs by {differ:.1g} of its size, while in front of the first layer the samples "
        f"differ by {_first(case):.2g}. All layers behind it see one and the same sample; "
        f"nothing is learned of {', '.join(tasks)}"
    )
    remedy = f"in the layers up to {place(case, layer.name)}, {SOUND}"
    return Finding("vanishing", tasks[0] if len(tasks) == 1 else None, evidence, remedy)


def _faded(case: Case, task: str, least: Layer, most: Layer) -> Finding:
    ratio = most.gradients[task] / least.gradients[task]
    evidence = (
        f"the gradient that tells a layer how to change is {ratio:.1g} times smaller at "
        f"{least.name} than at {most.name} (each relative to the layer's weights): on its way "
        f"through the layers it fades, and those it does not reach keep their random start"
    )
    return Finding("vanishing", task, evidence, f"around {place(case, least.name)}, {SOUND}")


def _first(case: Case) -> float:
    """How far the samples differ where they enter the network, over their size."""
    layer = case.now.at_end.signals.layers[0]
    size, signal = layer.entry or (layer.size, layer.signal)
    return signal / size if size else 0.0
