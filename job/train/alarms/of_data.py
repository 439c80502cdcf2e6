"""Alarms at the start of a run on stored arrays: what in the data makes it hard to learn.

Each message has its evidence and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.data.dataset import Dataset, Split
from job.data.shards.rows import spans
from job.events import Alarm
from job.model.labels import labelled
from job.model.scaling import Scaling
from job.spec import Arrays, Input, JobSpec, Task

FAR = 1e3
"""A spread this many times another is on another scale."""
OFFSET = 100
"""A mean this many standard deviations away from 0 hides how a feature varies."""
NORMAL = 1.349
"""Interquartile range of a normal distribution, in standard deviations."""
APART = 0.25
"""Total variation between the classes of the splits, beyond which they differ."""
SHIFTED = 0.5
"""Distance of the splits' means in standard deviations, beyond which they differ."""
COPIES = 0.05
"""Share of the validation samples that copy another sample, beyond which a skill is in doubt."""
NAMED = 3
"""Features that a message names; it counts the rest."""


def data_alarms(spec: JobSpec, data: Dataset, scalings: Mapping[str, Scaling]) -> Iterator[Alarm]:
    """The alarms about the data of a spec; none about dated bars, whose features we make.

    scalings: of each input of numbers.
    """
    if not isinstance(spec.data, Arrays):
        return
    for name, how in spec.data.named.items():
        of_codes = data.inputs[name].codes
        for kind, message in (
            ("constant_feature", _one_code(name, data) if of_codes else _constant(name, data)),
            ("feature_spread", "" if of_codes else _spread(name, how, data, scalings[name])),
            ("feature_offset", "" if of_codes else _offset(name, how, data, scalings[name])),
        ):
            if message:
                yield Alarm(kind=kind, message=message, step=0)
    found, remedy = copied_samples(data)
    if found:
        yield Alarm(kind="copied_samples", message=f"{found}; {remedy}", step=0)
    if spec.data.split == "tail":
        for task in spec.tasks:
            targets = (split.targets[task.name] for split in (data.train, data.validation))
            if found := shifted_targets(task, *targets):
                message = (
                    f"{task.name}: the targets of the tail are not like the others: {found}; if "
                    'the order of the samples is not one of time, set data.split to "random"'
                )
                yield Alarm(kind="split_shift", message=message, step=0, task=task.name)


def _constant(of: str, data: Dataset) -> str:
    """The message about the features of an input that never vary; "" if all do."""
    stats = data.stats[of]
    constant = np.flatnonzero(stats.constant).tolist()
    values = ["no value" if stats.empty[i] else f"{stats.low[i]:.4g}" for i in constant]
    found = [f"{data.feature_name(of, i)} ({v})" for i, v in zip(constant, values, strict=True)]
    return _that_tell_nothing(found)


def _one_code(of: str, data: Dataset) -> str:
    """The message about the features of an input of codes that have one alone; "" if none has."""
    rows = data.train.values_of(of)[:].flatten(0, -2)
    found = torch.nonzero(rows.amin(0) == rows.amax(0)).flatten().tolist()
    return _that_tell_nothing([data.feature_name(of, i) for i in found])


def _that_tell_nothing(found: list[str]) -> str:
    if not found:
        return ""
    return f"{_listed(found)}: constant in the training split, so that it tells nothing; remove it"


_REMEDIES = {
    "none": 'set {scale} to "standardize"',
    "standardize": 'set {scale} to "robust", or clip the values that lie far off',
    "robust": "clip the values that lie far off, or take their logarithm",
}


def _spread(of: str, how: Input, data: Dataset, scaling: Scaling) -> str:
    """The message about spreads that are far from the others', or all far from 1; "" if none is.

    A spread is the standard deviation, or that of the middle half of the values (the interquartile
    range as that of a normal distribution), which heavy tails leave far behind the former.
    """
    stats = data.stats[of]
    remedy = _remedy(how, of, data)
    flags = np.array(data.inputs[of].flags or np.zeros(len(stats.mean)), dtype=bool)
    varies = np.flatnonzero(~stats.constant & ~flags)
    if not len(varies):
        return ""
    scale = scaling.scale.double().cpu().numpy()[varies]
    deviation, middle = stats.deviation[varies] / scale, stats.middle_half[varies] / NORMAL / scale
    typical = float(np.sort(deviation)[(len(varies) - 1) // 2])
    off, tailed = _is_far(deviation / typical), (middle > 0) & _is_far(middle / typical)
    found = [
        f"{data.feature_name(of, f)} ({deviation[i]:.3g})"
        if off[i]
        else f"{data.feature_name(of, f)} ({middle[i]:.3g} in the middle half of its values)"
        for i, f in enumerate(varies.tolist())
        if off[i] or tailed[i]
    ]
    if found:
        return (
            f"{_listed(found)}: after scaling, its spread is a thousandth or less, or a thousand "
            f"times or more, of a typical feature's ({typical:.3g}); {remedy}"
        )
    if _is_far(np.array([typical]))[0]:
        return (
            f"the typical standard deviation of the features is {typical:.3g}, and the network "
            f"expects about 1; {remedy}"
        )
    return ""


def _offset(of: str, how: Input, data: Dataset, scaling: Scaling) -> str:
    """The message about features whose mean is far from 0 beside their spread; "" if none is."""
    stats = data.stats[of]
    shift = scaling.shift.double().cpu().numpy()
    flags = np.array(data.inputs[of].flags or np.zeros(len(stats.mean)), dtype=bool)
    varies = ~stats.constant & ~flags
    far = np.abs(stats.mean - shift) / np.where(varies, stats.deviation, 1)
    found = [
        f"{data.feature_name(of, f)} ({far[f]:.3g})"
        for f in np.flatnonzero(varies & (far >= OFFSET)).tolist()
    ]
    if not found:
        return ""
    return (
        f"{_listed(found)}: after scaling, the mean is that many standard deviations away from 0, "
        f"so that the network hardly sees how the feature varies; {_remedy(how, of, data)}"
    )


def _remedy(how: Input, of: str, data: Dataset) -> str:
    """How features come to a scale that the network expects."""
    key = "data.scale" if len(data.inputs) == 1 else f"data.inputs.{of}.scale"
    return _REMEDIES[str(how.scale)].format(scale=key)


def copied_samples(data: Dataset) -> tuple[str, str]:
    """How many validation samples copy training samples or each other, and what helps, in words.

    Both are "" if there are few. Copies have the same features and the same targets.
    """
    trained, held_out = set(_digests(data.train)), _digests(data.validation)
    known = sum(digest in trained for digest in held_out)
    repeated = len(held_out) - len(set(held_out))
    if max(known, repeated) <= COPIES * len(held_out):
        return "", ""
    found = [
        (known, "training samples", "the skill on them is memory"),
        (repeated, "each other", "the skill's error is too small"),
    ]
    copies = ", and ".join(f"{count:,} are copies of {of}" for count, of, _ in found if count)
    effect = ", and ".join(effect for count, _, effect in found if count)
    remedy = 'keep copies together with data.split {"group": …}, or drop them'
    if not known:  # they are together
        remedy = "drop them, unless they are different samples that are alike"
    return f"of {len(held_out):,} validation samples {copies}: {effect}", remedy


def feature_digests(split: Split) -> list[bytes]:
    """A digest of each sample's features."""
    return _digests(split, targets=False)


def _digests(split: Split, targets: bool = True) -> list[bytes]:
    """A digest of each sample's features, and of its targets if asked."""
    largest = max(split.inputs.values(), key=lambda x: prod(x.shape[1:]))
    return [digest for some in spans(largest) for digest in _some_digests(split, some, targets)]


def _some_digests(split: Split, some: slice, targets: bool) -> list[bytes]:
    values = (*split.inputs.values(), *(split.targets.values() if targets else ()))
    columns = [x[some] for x in values]
    rows = [column.reshape(len(column), -1).numpy() for column in columns]
    return [
        blake2b(b"".join(row.tobytes() for row in sample), digest_size=16).digest()
        for sample in zip(*rows, strict=True)
    ]


# --- targets of both splits ---------------------------------------------------------------------


def _with_labels(target: Tensor) -> int:
    """Number of samples with a label."""
    return int(labelled(target).reshape(len(target), -1).any(1).sum())


def shifted_targets(task: Task, train: Tensor, validation: Tensor) -> str:
    """How a task's targets differ between the splits, in words; "" if they do not strongly.

    A difference is strong beyond a bound that no chance reaches: of classes, a total variation
    above APART and five times what two draws of one distribution have; of numbers, means more than
    SHIFTED standard deviations apart, and more than five standard errors. A sample counts once,
    however many steps it has.
    """
    counts = torch.tensor([_with_labels(y) for y in (train, validation)], dtype=torch.float64)
    noise = float((1 / counts).sum().sqrt())
    if task.loss.of_classes:
        shares = [
            torch.bincount(y[labelled(y)], minlength=task.outputs).double()
            for y in (train, validation)
        ]
        one, other = (share / share.sum() for share in shares)
        distance = float((one - other).abs().sum() / 2)
        usual = float((one * (1 - one)).sqrt().sum()) / math.sqrt(2 * math.pi) * noise
        k = int((one - other).abs().argmax())
        if distance <= max(APART, 5 * usual):
            return ""
        return f"class {k} is {one[k]:.0%} of training and {other[k]:.0%} of validation"
    one, other = (
        y.double().flatten(1, -2).nanmean(1) if y.dim() > 2 else y.double()
        for y in (train, validation)
    )
    middle = [one.nanmean(0), other.nanmean(0)]
    squares = [(y - mean).square() for y, mean in zip((one, other), middle, strict=True)]
    spread = torch.stack([each.nanmean(0) for each in squares]).mean(0).sqrt()
    distances = (middle[0] - middle[1]).abs() / spread.clamp(min=torch.finfo().tiny)
    o = int(distances.argmax())
    if distances[o] <= max(SHIFTED, 5 * noise):
        return ""
    which = f" of output {o}" if task.outputs > 1 else ""
    return (
        f"the mean{which} is {middle[0][o]:.4g} in training and {middle[1][o]:.4g} in "
        f"validation, {distances[o]:.2g} standard deviations apart"
    )


def _is_far(ratio: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (ratio >= FAR) | (ratio <= 1 / FAR)


def _listed(found: list[str]) -> str:
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more
