"""Which samples train, which validate, and which are kept for the test."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from job.data.values import Place
from job.errors import Fault, InputError
from job.spec import Arrays, SplitBy

Index = NDArray[np.int64]

_PARTS = {"train": 0, "validation": 1, "test": 2}


class Positions(NamedTuple):
    """Ascending positions of the samples of each split; no sample is in two of them."""

    train: Index
    validation: Index
    test: Index


def divide(n: int, data: Arrays, seed: int, marks: NDArray[Any] | None, place: Place) -> Positions:
    """The splits of a file of n samples, by the shares that the spec gives.

    marks [n]: classes, groups or assignments, as data.split names them; None if there are none,
    which is a fault of its own where a split needs them. Raises
    InputError if the samples do not suffice, or a mark does not serve.
    """
    shares = (data.share, data.test_share)
    least = 1 + sum(share > 0 for share in shares)
    if n < least:
        found, rule = f"{n} rows", f"a split needs {least} or more"
        raise InputError([Fault(place.file, found, rule, "supply more data")])
    draw = np.random.default_rng(seed)
    if marks is None or not isinstance(data.split, SplitBy):
        order = np.arange(n) if data.split == "tail" else draw.permutation(n)
        test = _count(shares[1], n, n - least + 1)
        held = _count(shares[0], n, n - test - 1)
        part = np.repeat([0, 1, 2], [n - held - test, held, test])[np.argsort(order)]
    elif data.split.column is not None:
        part = _assigned(marks, data.split.column, place)
    elif data.split.group is not None:
        part = _by_group(marks, shares, draw, data.split.group, place)
    else:
        part = _by_class(marks, shares, draw)
    return Positions(*(np.flatnonzero(part == k) for k in range(3)))


def _count(share: float, n: int, most: int) -> int:
    """Number of n samples for a share: one to `most`; 0 for no share."""
    return min(max(round(share * n), 1), most) if share else 0


def _by_class(marks: NDArray[Any], shares: tuple[float, float], draw: np.random.Generator) -> Index:
    """[n] part of each sample: of every class the same share, within one sample.

    A class keeps a sample for training, if it has any.
    """
    _, inverse, sizes = np.unique(marks, return_inverse=True, return_counts=True)
    order = draw.permutation(len(marks))
    by_class = order[np.argsort(inverse[order], kind="stable")]
    ranks = np.empty(len(marks), dtype=np.int64)
    ranks[by_class] = np.concatenate([np.arange(size) for size in sizes])
    part = np.zeros(len(marks), dtype=np.int64)
    taken = np.zeros(len(sizes), dtype=np.int64)
    # What the test may take leaves validation its share, and training a sample.
    later = np.floor(shares[0] * sizes).astype(np.int64)
    for k, share, left in ((2, shares[1], sizes - 1 - later), (1, shares[0], sizes - 1)):
        counts = _quotas(share, sizes, left - taken)
        here = (ranks >= taken[inverse]) & (ranks < (taken + counts)[inverse])
        part[here] = k
        taken += counts
    return part


def _quotas(share: float, sizes: Index, most: Index) -> Index:
    """Whole numbers within one of share × sizes [C], at most `most`, whose sum is as rounded."""
    wanted = share * sizes
    counts = np.minimum(np.floor(wanted).astype(np.int64), most)
    left = max(round(share * sizes.sum()), share > 0) - counts.sum()
    for c in np.argsort(counts - wanted, kind="stable"):  # the largest remainders first
        if left > 0 and counts[c] < most[c] and counts[c] < wanted[c]:
            counts[c] += 1
            left -= 1
    return np.asarray(counts)


def _by_group(
    marks: NDArray[Any],
    shares: tuple[float, float],
    draw: np.random.Generator,
    name: str,
    place: Place,
) -> Index:
    """[n] part of each sample: whole groups, drawn until a part has about its share."""
    groups, inverse, sizes = np.unique(marks, return_inverse=True, return_counts=True)
    least = 1 + sum(share > 0 for share in shares)
    if len(groups) < least:
        found, rule = f"{len(groups)} groups", f"a split by group needs {least} or more"
        where = f"{place.file}, column {name}"
        raise InputError([Fault(where, found, rule, "split in another way")])
    part = np.zeros(len(groups), dtype=np.int64)
    free = list(draw.permutation(len(groups)))
    for k, share in ((2, shares[1]), (1, shares[0])):
        if not share:
            continue
        wanted, held = share * len(marks), 0
        taken: list[int] = []
        spare = 1 + (k == 2 and shares[0] > 0)
        for group in free:
            closer = abs(held + sizes[group] - wanted) < abs(held - wanted)
            if closer and len(free) - len(taken) > spare:
                taken.append(group)
                held += sizes[group]
        taken = taken or [min(free, key=lambda group: int(sizes[group]))]
        part[taken] = k
        gone = set(taken)
        free = [group for group in free if group not in gone]
    return np.asarray(part[inverse])


def _assigned(marks: NDArray[Any], name: str, place: Place) -> Index:
    """[n] part of each sample, as the column `name` says."""
    part = np.full(len(marks), -1)
    for word, k in _PARTS.items():
        part[marks == word if marks.dtype.kind in "OU" else marks == k] = k
    where = f"{place.file}, column {name}"
    if len(bad := np.flatnonzero(part < 0)):
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        rule = "must be train, validation or test, or 0, 1 or 2"
        found = f'"{marks[bad[0]]}"' + more
        raise InputError([Fault(place.at(name, [int(bad[0])]), found, rule, "correct it")])
    empty = [word for word, k in list(_PARTS.items())[:2] if not (part == k).any()]
    if empty:
        rule = "training and validation need a sample each"
        raise InputError([Fault(where, f"no {' and no '.join(empty)}", rule, "assign some")])
    return part
