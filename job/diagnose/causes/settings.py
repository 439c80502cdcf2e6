"""Settings that keep every task from learning: scale, weight decay, dropout, clip and the like.

All that are far from the usual are set right in one probe. If it helps a task, each is put back in
turn: those without which a task learns less are to blame. So one fault cannot hide another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.diagnose.case import Case, Finding, Mechanism, is_risen, remedy, skill_changes
from job.diagnose.probe import STEPS, Probe
from job.model.labels import labelled
from job.spec import Arrays, Conv1d, Conv2d, JobSpec, Lstm, Mlp, Python, Transformer
from job.spec.patch import Edit

FAR = 30.0
"""A target's spread this many times less than 1, or than its distance from 0, is far off."""
UNEVEN = 10.0
"""A feature's spread this many times more or less than 1 is a suspect, as scaling it is tried."""
NORMAL = 1.349
"""Interquartile range of a normal distribution, in standard deviations."""
DECAY = {"adamw": (0.1, 0.01), "muon": (0.1, 0.01), "adam": (1e-3, 0.0), "sgd": (1e-2, 1e-4)}
"""By optimizer: the weight decay above which it is a suspect, and a usual one."""
DROPPED, USUAL_DROPOUT = 0.7, 0.1
"""Share of dropped values above which it is a suspect, and a usual one."""
CLIP = 1.0
"""Limit of the gradient's norm below which it is a suspect."""
PART, USUAL_BATCH = 0.25, 32
"""Part of the training split above which a batch is a suspect, and a usual batch."""
NARROW, USUAL_WIDTH = 8, 64
"""Width of a trunk below which it is a suspect, and a usual one."""


@dataclass(frozen=True)
class _Suspect:
    """A setting far from the usual, and the edits that bring it there."""

    mechanism: Mechanism
    task: str | None
    evidence: str
    edits: tuple[Edit, ...]


def findings(case: Case) -> Iterator[Finding]:
    """Findings on settings of data, training and trunk."""
    yield from _to_blame(case, _suspects(case))


def of_divergence(case: Case) -> Iterator[Finding]:
    """Findings on scales that make values infinite at every rate that was tried."""
    if case.now.not_finite:
        yield from _to_blame(case, [*_scales(case), *_target_scales(case)])


def usual(case: Case) -> tuple[Edit, ...]:
    """The edits that bring every setting of the whole run there that is far from the usual."""
    suspects = [*_suspects(case), *_width(case.spec), *_initialization(case.spec)]
    return _edits([each for each in suspects if each.task is None])


def start(case: Case) -> Iterator[Finding]:
    """Findings on how the network starts, and on activations of weak tasks' heads."""
    if case.weak():
        yield from _to_blame(case, [*_initialization(case.spec), *_activations(case)])


def width(case: Case) -> Iterator[Finding]:
    """A finding on a trunk so narrow that the tasks get in each other's way."""
    yield from _to_blame(case, list(_width(case.spec)))


def _to_blame(case: Case, suspects: Sequence[_Suspect]) -> Iterator[Finding]:
    """A finding for each suspect without which a task learns more."""
    if not suspects:
        return
    tried = case.probe_with(*_edits(suspects))
    helped = () if tried is None or case.harmed(tried) else case.helped(tried, case.open_tasks)
    if tried is None or not helped:
        return
    for suspect in suspects:
        others = [each for each in suspects if each is not suspect]
        if not others or (without := case.probe_with(*_edits(others))) is None:
            continue
        if not any(is_risen(without, tried, task) for task in helped):
            suspects, tried = others, without
    before = case.now
    case.accept(_edits(suspects), tried)
    together = ", with all such edits together" if len(suspects) > 1 else ""
    effect = skill_changes(before, tried, helped) + together
    for each in suspects:
        words = remedy(each.edits)
        yield Finding(
            each.mechanism, each.task, each.evidence, words, each.edits, effect, tuple(helped)
        )


def _edits(suspects: Sequence[_Suspect]) -> tuple[Edit, ...]:
    return tuple(edit for suspect in suspects for edit in suspect.edits)


# --- suspects -----------------------------------------------------------------------------------


def _suspects(case: Case) -> list[_Suspect]:
    spec = case.spec
    of_spec = (*_decay(spec), *_dropout(spec), *_clip(spec))
    return [*_scales(case), *_target_scales(case), *of_spec, *_batch(case)]


def _scales(case: Case) -> Iterator[_Suspect]:
    """Inputs with a feature whose spread after scaling is far from 1 or from another's."""
    data = case.spec.data
    if not isinstance(data, Arrays):
        return
    for name, how in data.named.items():
        wanted = {"none": "standardize", "standardize": "robust"}.get(str(how.scale))
        if how.is_coded or wanted is None or not (far := _far_features(case.first, name)):
            continue
        path = ("data", "scale") if data.inputs is None else ("data", "inputs", name, "scale")
        few = ", ".join(f"{feature} {spread:.2g}" for feature, spread in far[:3])
        evidence = (
            f"{len(far)} of the features of {name} have a spread after scaling that is far from 1, "
            f"where a network learns best: {few}"
        )
        yield _Suspect("feature_scale", None, evidence, (Edit(path, wanted),))


def _far_features(probe: Probe, of: str) -> list[tuple[str, float]]:
    """Names and spreads of an input's features that are far from 1, the farthest first."""
    stats, scale = probe.data.stats[of], probe.scales[of]
    flags = np.array(probe.data.inputs[of].flags or np.zeros(len(scale)), dtype=bool)
    varies = np.flatnonzero(~stats.constant & ~flags)
    deviation = stats.deviation[varies] / scale[varies]
    middle = stats.middle_half[varies] / NORMAL / scale[varies]
    # Heavy tails leave the middle half of the values in a small part of the deviation.
    spreads = np.where((middle > 0) & (_off(middle) > _off(deviation)), middle, deviation)
    far = sorted(np.flatnonzero(_off(spreads) > np.log(UNEVEN)), key=lambda i: -_off(spreads)[i])
    return [(probe.data.feature_name(of, int(varies[i])), float(spreads[i])) for i in far]


def _off(spreads: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(np.log(np.maximum(spreads, 1e-30)))


def _decay(spec: JobSpec) -> Iterator[_Suspect]:
    optimizer = spec.optimizer
    limit, usual = DECAY[optimizer.kind]
    if optimizer.weight_decay > limit:
        evidence = (
            f"weight_decay is {optimizer.weight_decay:g}: at lr {optimizer.lr:g} each step shrinks "
            f"the weights by {min(optimizer.lr * optimizer.weight_decay, 1):.2g} of their size, "
            f"toward 0"
        )
        edit = Edit(("optimizer", "weight_decay"), usual)
        yield _Suspect("weight_decay", None, evidence, (edit,))


def _dropout(spec: JobSpec) -> Iterator[_Suspect]:
    if isinstance(spec.model, Python):
        return
    shares = {k: v for k, v in spec.model.dropout.model_dump().items() if v > DROPPED}
    if shares:
        where = ", ".join(f"{share:.0%} of the values at {k}" for k, share in shares.items())
        edits = tuple(Edit(("model", "dropout", k), USUAL_DROPOUT) for k in shares)
        yield _Suspect("dropout", None, f"training drops {where} at random", edits)


def _clip(spec: JobSpec) -> Iterator[_Suspect]:
    clip = spec.train.clip
    if clip is not None and clip < CLIP:
        evidence = f"gradients longer than {clip:g} are cut to that length, so that steps are short"
        yield _Suspect("clip", None, evidence, (Edit(("train", "clip"), None),))


def _batch(case: Case) -> Iterator[_Suspect]:
    train, size = case.spec.train, len(case.first.data.train)
    if train.batch_size > max(PART * size, USUAL_BATCH) and case.first.planned < STEPS:
        evidence = (
            f"a batch of {train.batch_size} of {size} samples leaves {case.first.planned} steps in "
            f"the run"
        )
        edit = Edit(("train", "batch_size"), USUAL_BATCH)
        yield _Suspect("batch_size", None, evidence, (edit,))


def _width(spec: JobSpec) -> Iterator[_Suspect]:
    match spec.model:
        case Lstm(hidden=width) if width < NARROW:
            edit = Edit(("model", "hidden"), USUAL_WIDTH)
        case Mlp(hidden=widths) if (width := min(widths)) < NARROW:
            wide = [each if each >= NARROW else USUAL_WIDTH for each in widths]
            edit = Edit(("model", "hidden"), wide)
        case Conv1d(width=width) | Conv2d(width=width) | Transformer(width=width) if width < NARROW:
            edit = Edit(("model", "width"), USUAL_WIDTH)
        case _:
            return
    numbers = f"{width} numbers" if width > 1 else "one number"
    evidence = (
        f"all that the tasks get to know of a sample is {numbers}: what a layer that they share "
        f"makes of it"
    )
    yield _Suspect("width", None, evidence, (edit,))


def _initialization(spec: JobSpec) -> Iterator[_Suspect]:
    model, edits = spec.model, []
    if isinstance(model, Python):
        return
    if model.init.heads != "target_mean":
        edits.append(Edit(("model", "init", "heads"), "target_mean"))
    if isinstance(model, Lstm) and model.init.lstm != "orthogonal":
        edits.append(Edit(("model", "init", "lstm"), "orthogonal"))
    if edits:
        evidence = "the network starts at torch's default, with predictions far from the targets"
        yield _Suspect("initialization", None, evidence, tuple(edits))


def _target_scales(case: Case) -> Iterator[_Suspect]:
    """Targets of weak tasks whose spread is tiny beside 1, or beside their distance from 0.

    Of those with a large spread, job.diagnose.causes.travel_budget tells whether they are too far;
    here they are suspects only where values are not finite.
    """
    for k, task in enumerate(case.spec.tasks):
        plain = task.transform.kind == "none" and task.activation == "identity"
        if task.name not in case.weak() or not plain or task.loss.untransformed:
            continue
        target = case.first.data.train.targets[task.name]
        known = target[labelled(target).reshape(target.shape)].double()
        mean, spread = float(known.mean()), float(known.std())
        large = case.now.not_finite is not None and spread > FAR
        if large or 0 < spread < max(1.0, abs(mean)) / FAR:
            evidence = (
                f"its targets have mean {mean:.4g} and standard deviation {spread:.3g}, and a "
                f"network's outputs start near 0 with a spread near 1"
            )
            edit = Edit(("tasks", k, "transform"), {"kind": "standardize"})
            yield _Suspect("target_scale", task.name, evidence, (edit,))


def _activations(case: Case) -> Iterator[_Suspect]:
    for k, task in enumerate(case.spec.tasks):
        if task.activation != "identity" and task.name in case.weak():
            evidence = f"its outputs pass through a {task.activation}, and it hardly learns"
            edit = Edit(("tasks", k, "activation"), "identity")
            yield _Suspect("activation", task.name, evidence, (edit,))
