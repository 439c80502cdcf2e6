"""Features of bars, labels of windows, and the split."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data.bars import Bars, read_bars
from job.data.windows import HISTORY, LIMIT, features, label, windows
from job.errors import InputError
from job.spec import OhlcWindows

NASDAQ = Path(__file__).parents[2] / "docker" / "nasdaq.csv.gz"
FEW = settings(max_examples=40, deadline=None)


def spec(**changes: Any) -> OhlcWindows:
    return OhlcWindows(kind="ohlc_windows", **{"path": "bars.csv", **changes})


def walk(n: int, seed: int = 0, scale: float = 0.01) -> Bars:
    """A random walk of n valid bars."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(scale * rng.normal(size=n)))
    open_ = close * np.exp(scale * rng.normal(size=n) / 3)
    high = np.maximum(open_, close) * np.exp(scale * rng.random(n))
    low = np.minimum(open_, close) * np.exp(-scale * rng.random(n))
    return Bars(np.arange(n).astype("datetime64[D]"), open_, high, low, close)


def of_closes(close: np.ndarray[Any, Any]) -> Bars:
    return Bars(np.arange(len(close)).astype("datetime64[D]"), close, close, close, close)


def scaled(bars: Bars, by: float) -> Bars:
    return Bars(bars.dates, bars.open * by, bars.high * by, bars.low * by, bars.close * by)


# --- features ---------------------------------------------------------------------------------


@FEW
@given(seed=st.integers(0, 999), at=st.integers(0, 79), factor=st.floats(0.5, 2))
def test_features_are_causal(seed: int, at: int, factor: float) -> None:
    """Changing every bar after one changes no feature up to that one."""
    bars = walk(80, seed)
    before, _ = features(bars)
    for prices in (bars.open, bars.high, bars.low, bars.close):
        prices[at + 1 :] *= factor
    after, _ = features(bars)
    np.testing.assert_array_equal(after[: at + 1], before[: at + 1])


@FEW
@given(seed=st.integers(0, 999), scale=st.floats(1e-4, 0.3), by=st.floats(1e-3, 1e5))
def test_features_are_relative(seed: int, scale: float, by: float) -> None:
    """No feature knows the price level; all are finite and bounded, 0 without history."""
    bars = walk(60, seed, scale)
    values, first = features(bars)
    np.testing.assert_allclose(features(scaled(bars, by))[0], values, atol=1e-4)
    assert values.shape == (60, 12)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= LIMIT
    assert not values[:first].any()
    assert values[first:].any(axis=0).all()


def test_features_agree_with_their_definition() -> None:
    """The features of a bar are what their description says, in its order."""
    bars = walk(40)
    o, h, lo, c = (np.log(x) for x in (bars.open, bars.high, bars.low, bars.close))
    i = 33
    sigma = np.sqrt(np.mean((c[14:34] - c[13:33]) ** 2))
    root = np.sqrt(20)
    expected = [
        c[i] - c[i - 1],
        o[i] - c[i - 1],
        c[i] - o[i],
        max(h[i], c[i - 1]) - min(lo[i], c[i - 1]),
        h[i] - max(o[i], c[i]),
        min(o[i], c[i]) - lo[i],
        (c[i] - c[i - 5]) / np.sqrt(5),
        (c[i] - c[i - 10]) / np.sqrt(10),
        (c[i] - c[i - 20]) / root,
        (c[i] - h[14:34].max()) / root,
        (c[i] - lo[14:34].min()) / root,
        np.sqrt(np.mean((c[29:34] - c[28:33]) ** 2)),
    ]
    np.testing.assert_allclose(features(bars)[0][i], np.array(expected) / sigma, rtol=1e-5)


def test_features_of_constant_prices() -> None:
    """Without volatility all features are 0."""
    assert not features(of_closes(np.full(50, 7.3)))[0].any()


# --- labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "kind"), [(1, 2), (-1, 0)])
@pytest.mark.parametrize(("first", "length"), [(30, 5), (40, 8), (55, 20), (67, 8)])
def test_planted_expansion(sign: int, kind: int, first: int, length: int) -> None:
    """A planted move is found exactly, up and down, and every target follows from it."""
    returns = 0.001 * (-1.0) ** np.arange(105)
    returns[first : first + length] = 0.03 * sign
    bars = of_closes(100 * np.exp(np.cumsum(returns)))
    labels = {name: values[0] for name, values in label(bars, np.array([0]), spec()).items()}
    step = np.arange(105)
    assert labels["type"] == kind
    assert labels["start"] == first
    np.testing.assert_allclose(
        labels["pointers"], [(first + (length - 1) / 2) / 105, length / 105], rtol=1e-12
    )
    np.testing.assert_array_equal(labels["binary"], (step >= first) & (step < first + length))
    np.testing.assert_array_equal(labels["countdown"], np.clip(first - step, -20, 20))


def test_flat_keeps_its_pointers() -> None:
    """Constant prices: strength 0, type flat, the earliest and shortest expansion pointed at."""
    found = label(of_closes(np.full(105, 5.0)), np.array([0]), spec())
    assert found["type"] == [1]
    np.testing.assert_allclose(found["pointers"], [[32 / 105, 5 / 105]])
    assert found["binary"].sum() == 5


@FEW
@given(
    seed=st.integers(0, 999),
    search=st.tuples(st.integers(1, 12), st.integers(20, 29)),
    lengths=st.tuples(st.integers(1, 4), st.integers(4, 8)),
)
def test_labels_agree_with_their_definition(
    seed: int, search: tuple[int, int], lengths: tuple[int, int]
) -> None:
    """The vectorised search finds what a plain loop over all (s, L) finds."""
    data = spec(window=30, search=search, lengths=lengths, flat_below=1.8)
    bars = walk(50, seed)
    starts = np.array([0, 7, 20])
    found = label(bars, starts, data)
    for i, start in enumerate(starts):
        x = np.log(bars.close[start : start + 30])
        sigma = np.std(x[1:] - x[:-1])
        move, s, n = max(
            (
                (x[s + n - 1] - x[s - 1], s, n)
                for s in range(search[0], search[1] + 1)
                for n in range(lengths[0], lengths[1] + 1)
                if s + n - 1 <= search[1]
            ),
            key=lambda e: abs(e[0]) / np.sqrt(e[2]),
        )
        kind = 1 if abs(move) / (sigma * np.sqrt(n)) < 1.8 else 2 if move > 0 else 0
        assert found["start"][i] == s
        assert found["pointers"][i, 1] == n / 30
        assert found["type"][i] == kind


def test_default_classes_are_balanced() -> None:
    """On the shipped bars each class holds a quarter of the windows or more."""
    data = spec(path="nasdaq.csv.gz", date_format="%m/%d/%Y")
    shares = np.bincount(windows(read_bars(NASDAQ, data), data).targets["type"]) / 4698
    assert shares.min() > 0.25


# --- windows ----------------------------------------------------------------------------------


@FEW
@given(
    extra=st.integers(0, 60),
    window=st.integers(8, 12),
    count=st.none() | st.integers(2, 62),
    validation=st.floats(0.01, 0.99),
)
def test_split(extra: int, window: int, count: int | None, validation: float) -> None:
    """No bar is in both splits, a whole window lies between, and every bar is accounted for."""
    n = HISTORY + 3 * window + extra
    count = count and min(count, extra + 2)
    data = spec(window=window, search=(2, 6), lengths=(1, 3), windows=count, validation=validation)
    made = windows(walk(n), data)
    total = count or extra + 2
    assert len(made.starts) == len(np.unique(made.starts)) == total
    expected = min(max(round((1 - validation) * total), 1), total - 1)
    assert len(made.train) == expected
    train, held_out = made.starts[made.train], made.starts[made.validation]
    assert train.min() == HISTORY
    assert held_out.max() == n - window
    assert held_out.min() - (train.max() + window) >= window
    assert (np.diff(made.starts) > 0).all()
    for part in (train, held_out):
        assert len(part) < 3 or np.ptp(np.diff(part)) <= 1
    used = len({bar for start in made.starts for bar in range(start, start + window)})
    assert used + sum(c for reason, c in made.skipped.items() if "bars" in reason) == n
    across = n - window - HISTORY + 1 - total if count is None else 0
    assert made.skipped.get("windows across the split", 0) == across


def test_windows_hold_their_bars() -> None:
    """Window i holds the features of the bars from its start on."""
    bars = walk(200)
    made = windows(bars, spec(window=30, search=(5, 20), lengths=(3, 5), windows=9))
    values, _ = features(bars)
    for start, sample in zip(made.starts, made.features, strict=True):
        np.testing.assert_array_equal(sample, values[start : start + 30])


@pytest.mark.parametrize(
    ("n", "changes", "start"),
    [
        (0, {}, "$.data.window: found a window of 105 bars and 0 bars in bars.csv; at least 335"),
        (104, {}, "$.data.window: found a window of 105 bars and 104 bars"),
        (334, {}, "bars.csv: found a window of 105 bars and 334 bars in bars.csv; at least 335"),
        (340, {"windows": 8}, "$.data.windows: found 8; 340 bars hold at most 7 different"),
    ],
)
def test_too_few_bars(n: int, changes: dict[str, Any], start: str) -> None:
    """A series too short for its windows gives a line with the number of bars it needs."""
    with pytest.raises(InputError) as error:
        windows(walk(n), spec(**changes))
    assert str(error.value).startswith(start)


def test_windows_are_quick() -> None:
    """5 000 windows are made in well under 2 seconds."""
    bars = walk(5000 + HISTORY + 3 * 105)
    began = time.process_time()
    made = windows(bars, spec())
    assert len(made.starts) == 5002
    assert time.process_time() - began < 2
