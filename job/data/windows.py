"""Windows of features from bars, labelled by their strongest directional move.

The label of a window of W bars. Bars are counted from 0 at the window's start, x is the log of
the close. An expansion begins at bar s and lasts L bars, with search[0] ≤ s, s + L − 1 ≤
search[1] and lengths[0] ≤ L ≤ lengths[1]; its move is x[s + L − 1] − x[s − 1], its strength

    |move| / (σ √L),   σ = standard deviation of the window's W − 1 one-bar log returns.

The window's expansion is the strongest; of equals the earliest, then the shortest. Strength is 0
if all closes are equal; a move in a window whose returns are all equal is infinitely strong.

    type       0 down, 1 flat (strength below flat_below), 2 up
    pointers   centre (s + (L − 1)/2) / W, length L / W: of a flat window too
    binary     1 at the bars of the expansion, flat or not; else 0
    countdown  s − t at bar t, in bars, clipped to ± countdown_clip
    start      s, in bars: the countdown as one number per window
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from job.data.bars import Bars
from job.data.tables.cells import Floats
from job.errors import Fault, InputError
from job.spec import OhlcWindows

HISTORY = 20
"""Number of bars before the first bar that has all features."""
SHORT = 5
LIMIT = 8.0
"""Features are clipped to ± this."""
STILL = 1e-9
"""A volatility per bar below this counts as none."""
TARGETS = ("type", "pointers", "binary", "countdown", "start")

Index = NDArray[np.int64]


class Windows(NamedTuple):
    """n labelled windows of T bars, the training windows first, each part in order of time."""

    features: NDArray[np.float32]
    """[n, T, F]"""
    targets: dict[str, NDArray[Any]]
    """type [n], pointers [n, 2], binary [n, T], countdown [n, T], start [n]."""
    starts: Index
    """[n] first bar of each window."""
    train: Index
    """Positions of the training windows among the n."""
    validation: Index
    skipped: dict[str, int]
    """Reason → number of bars or windows that are left out."""


# --- features ---------------------------------------------------------------------------------


def features(bars: Bars) -> tuple[NDArray[np.float32], int]:
    """Features [N, 12] of each bar, and the first bar that has them all.

    Each is a ratio of prices up to and including the bar, in units of σ, the root mean square of
    its last 20 log returns: the return; the gap from the last close to the open; open to close;
    the true range; the upper and the lower wick; the returns over 5, 10 and 20 bars, per √bars;
    the fall from the 20-bar high and the rise from the 20-bar low, per √20; σ of 5 bars.
    A feature is 0 if σ is none, and before the first bar that has them all.
    """
    open_, high, low, close = (np.log(x) for x in (bars.open, bars.high, bars.low, bars.close))
    before = _lag(close, 1)
    returns = close - before
    sigma = _rms(returns, HISTORY)
    month = sigma * np.sqrt(HISTORY)
    columns = [
        _ratio(returns, sigma),
        _ratio(open_ - before, sigma),
        _ratio(close - open_, sigma),
        _ratio(np.maximum(high, before) - np.minimum(low, before), sigma),
        _ratio(high - np.maximum(open_, close), sigma),
        _ratio(np.minimum(open_, close) - low, sigma),
        *(_ratio(close - _lag(close, k), sigma * np.sqrt(k)) for k in (5, 10, HISTORY)),
        _ratio(close - _trailing(high, HISTORY).max(axis=1), month),
        _ratio(close - _trailing(low, HISTORY).min(axis=1), month),
        _ratio(_rms(returns, SHORT), sigma),
    ]
    values = np.stack(columns, axis=1).clip(-LIMIT, LIMIT)
    values[:HISTORY] = 0
    return values.astype(np.float32), HISTORY


def _lag(x: Floats, bars: int) -> Floats:
    """[N] x a number of bars ago, NaN before the first."""
    return np.concatenate([np.full(min(bars, len(x)), np.nan), x[:-bars]])


def _trailing(x: Floats, bars: int) -> Floats:
    """[N, bars] the last values of x up to each bar, NaN before the first."""
    return sliding_window_view(np.concatenate([np.full(bars - 1, np.nan), x]), bars)


def _rms(x: Floats, bars: int) -> Floats:
    return np.asarray(np.sqrt(np.square(_trailing(x, bars)).mean(axis=1)))


def _ratio(x: Floats, unit: Floats) -> Floats:
    """[N] x / unit, 0 where the unit is below STILL."""
    return np.divide(x, unit, out=np.zeros_like(x), where=unit > STILL)


# --- labels -----------------------------------------------------------------------------------


def label(bars: Bars, starts: Index, data: OhlcWindows) -> dict[str, NDArray[Any]]:
    """Targets of the windows that begin at `starts` [n]; the module's docstring defines them."""
    close = sliding_window_view(np.log(bars.close), data.window)[starts]
    first, length, move = _expansion(close, data)
    sigma = np.diff(close, axis=1).std(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = np.where(move == 0, 0.0, np.abs(move) / (sigma * np.sqrt(length)))
    step = np.arange(data.window)
    until = first[:, None] - step
    return {
        "type": np.where(strength < data.flat_below, 1, np.where(move > 0, 2, 0)),
        "pointers": np.stack([first + (length - 1) / 2, length], axis=1) / data.window,
        "binary": ((until <= 0) & (until > -length[:, None])).astype(np.float32),
        "countdown": until.clip(-data.countdown_clip, data.countdown_clip),
        "start": first,
    }


def _expansion(close: Floats, data: OhlcWindows) -> tuple[Index, Index, Floats]:
    """First bar [n], length [n] and signed move [n] of the strongest expansion.

    close: [n, T], logs. σ is the same for all expansions of a window and does not matter here.
    """
    n = len(close)
    shortest, longest = data.lengths
    first, length = np.zeros(n, dtype=np.int64), np.full(n, shortest, dtype=np.int64)
    move, best = np.zeros(n), np.full(n, -np.inf)
    row = np.arange(n)
    for s in range(data.search[0], data.search[1] - shortest + 2):
        lengths = np.arange(shortest, min(longest, data.search[1] - s + 1) + 1)
        moves = close[:, s + lengths - 1] - close[:, s - 1, None]
        strengths = np.abs(moves) / np.sqrt(lengths)
        k = strengths.argmax(axis=1)
        # Strictly greater, and argmax takes the first: of equals the earliest, then the shortest.
        better = strengths[row, k] > best
        best = np.where(better, strengths[row, k], best)
        first = np.where(better, s, first)
        length = np.where(better, lengths[k], length)
        move = np.where(better, moves[row, k], move)
    return first, length, move


# --- windows ----------------------------------------------------------------------------------


def windows(bars: Bars, data: OhlcWindows) -> Windows:
    """Labelled windows, the latest held out for validation after a gap of one window.

    No bar is in a training and in a validation window. Starts are evenly spaced over time, or at
    every bar if the spec gives no number. Raises InputError if the series is too short.
    """
    most = _check_length(len(bars), data)
    count = data.windows or most
    n_train = min(max(round((1 - data.validation) * count), 1), count - 1)
    # `most` windows are one at every bar: n - 2 equal steps before and after the split.
    last_train = HISTORY + round((most - 2) * (n_train - 1) / max(count - 2, 1))
    first_validation = last_train + 2 * data.window
    last = len(bars) - data.window
    starts = np.concatenate(
        [
            np.linspace(HISTORY, last_train, n_train).round(),
            np.linspace(last, first_validation, count - n_train).round()[::-1],
        ]
    ).astype(np.int64)
    values, _ = features(bars)
    # [N - T + 1, F, T] → [n, T, F]
    samples = sliding_window_view(values, data.window, axis=0)[starts].swapaxes(1, 2)
    split = np.arange(count)
    skipped = _skipped(len(bars), starts, n_train, data)
    targets = label(bars, starts, data)
    return Windows(samples, targets, starts, split[:n_train], split[n_train:], skipped)


def all_windows(bars: Bars, data: OhlcWindows) -> tuple[NDArray[np.float32], Index]:
    """The features [n, T, F] of the windows that begin at each bar, and their first bars [n].

    They are a view of the bars' features. Raises InputError if the series is too short.
    """
    least = HISTORY + data.window
    if len(bars) < least:
        rule = f"a window needs {HISTORY} bars of history and {data.window} more"
        found = f"{len(bars)} bars"
        raise InputError([Fault(data.path, found, rule, "supply a longer series")])
    values, _ = features(bars)
    samples = sliding_window_view(values, data.window, axis=0).swapaxes(1, 2)
    return samples[HISTORY:], np.arange(HISTORY, len(bars) - data.window + 1)


def _check_length(bars: int, data: OhlcWindows) -> int:
    """The largest possible number of windows; raises InputError if there are too few."""
    least = HISTORY + 3 * data.window
    if bars < least:
        raise InputError(
            [
                Fault(
                    "$.data.window" if data.window > bars else data.path,
                    f"a window of {data.window} bars and {bars} bars in {data.path}",
                    f"at least {least} bars are needed: {HISTORY} of history, a training window, "
                    "a gap and a validation window",
                    "lower data.window or supply a longer series",
                )
            ]
        )
    most = bars - least + 2
    if data.windows and data.windows > most:
        found, rule = str(data.windows), f"{bars} bars hold at most {most} different windows"
        raise InputError([Fault("$.data.windows", found, rule, "lower it, or set it to null")])
    return most


def _skipped(bars: int, starts: Index, n_train: int, data: OhlcWindows) -> dict[str, int]:
    """Number of bars in no window, by their place, and of possible windows that were left out."""
    used = np.zeros(bars, dtype=bool)
    for start in starts:
        used[start : start + data.window] = True
    unused = np.flatnonzero(~used)
    gap = starts[n_train] - starts[n_train - 1] - data.window
    counts = {
        "bars without history": HISTORY,
        "bars in the gap before validation": int(gap),
        "bars between windows": len(unused) - HISTORY - int(gap),
        "windows across the split": 0 if data.windows else 2 * data.window - 1,
    }
    return {reason: count for reason, count in counts.items() if count}
