"""How numbers are written, and which characters a locale has."""

from __future__ import annotations

import pytest

from job.show.console import is_ascii
from job.show.format import (
    counted,
    format_metric,
    format_percent,
    format_spread,
    measurement,
    number,
    peculiarities,
    percent,
    shape,
    size,
)


def test_numbers() -> None:
    """Numbers have significant digits, shares percent; nan differs from a missing value."""
    record = {"a": 0.00354812, "b": None, "c": 0.6763}
    assert [number(record, name) for name in "abx"] == ["0.003548", "nan", "-"]
    assert [percent(record, name) for name in "cbx"] == ["67.6%", "nan", "-"]


def test_measurement() -> None:
    """A gate's value has its unit."""
    assert measurement({"unit": "share", "measured": 0.6763}) == "67.6%"
    assert measurement({"unit": "ratio", "measured": 1.23456}) == "1.235"
    assert measurement({"unit": "ratio"}) == "-"
    assert measurement({"unit": "metric", "measured": 0.812345}) == "0.8123"


def test_metric() -> None:
    """Its name, its value, the target's unit where it is in that; a dash if it has no value."""
    assert format_metric("mae", 3.41764, "bars") == "mae 3.418 bars"
    assert format_metric("r2", 0.5, "bars") == "r2 0.5"
    assert format_metric("auroc", None, "bars") == "auroc -"
    assert format_metric("of a newer version", 1.0, "bars") == "of a newer version 1"


@pytest.mark.parametrize(
    ("share", "digits", "expected"),
    [
        (0.5, 0, "50%"),
        (0.995, 0, "99.5%"),
        (-0.99996, 1, "-99.996%"),
        (1.0, 0, "100%"),
        (2.5, 0, "250%"),
    ],
)
def test_percent_never_overstates(share: float, digits: int, expected: str) -> None:
    """A share below 1 is not rounded to 100%."""
    assert format_percent(share, digits) == expected


def test_spread() -> None:
    """Mean and standard deviation share digits and unit; one value has no deviation."""
    assert format_spread(0.6333, 0.0123, as_percent=True) == "63.3 ± 1.2%"
    assert format_spread(1.23456, None, as_percent=False) == "1.23"
    assert format_spread(None, None, as_percent=True) == "-"


def test_counts() -> None:
    """Only 1 is singular; thousands have a comma."""
    assert [counted(n, "step") for n in (0, 1, 1260)] == ["0 steps", "1 step", "1,260 steps"]
    assert [size(n) for n in (999, 378_000, 2.5e9)] == ["999 B", "378 kB", "2.5 GB"]


@pytest.mark.parametrize(
    ("locale", "ascii_only"),
    [
        ({"LANG": "C"}, True),
        ({"LANG": "POSIX"}, True),
        ({"LC_ALL": "C", "LANG": "en_US.UTF-8"}, True),
        ({"LC_CTYPE": "C", "LANG": "en_US.UTF-8"}, True),
        ({"LC_ALL": "", "LC_CTYPE": "C.UTF-8", "LANG": "C"}, False),
        ({"LANG": "de_DE.UTF-8"}, False),
        ({}, False),
    ],
    ids=str,
)
def test_locales(locale: dict[str, str], ascii_only: bool) -> None:
    """The first variable that is set decides; C and POSIX promise no more than ASCII."""
    assert is_ascii(locale) == ascii_only


def test_what_a_run_begins_with() -> None:
    """The shape of its samples, by input if those have names; the run whose network it takes."""
    assert shape({"features": [105, 12]}) == "105 x 12"
    images = {"image": [36, 36, 1], "hour": [1, 1]}
    assert shape({"features": [1296, 2], "inputs": images}) == "image 36 x 36 x 1, hour 1 x 1"
    origin = {"kind": "start_from", "run": "wine/one", "step": 1273}
    assert peculiarities({"origin": origin}) == ["begins with wine/one at step 1,273"]
    assert peculiarities({"origin": origin | {"kind": "extends"}}) == []
    assert peculiarities({}) == []
