"""One spelling for each kind of number, and which characters a locale has."""

from __future__ import annotations

import pytest

from job.figures import counted, measured, number, percent, size
from job.screen import is_ascii


def test_numbers() -> None:
    """Significant digits, shares in percent; nan and nothing are told apart."""
    record = {"a": 0.00354812, "b": None, "c": 0.6763}
    assert [number(record, name) for name in "abx"] == ["0.003548", "nan", "-"]
    assert [percent(record, name) for name in "cbx"] == ["67.6%", "nan", "-"]


def test_measured() -> None:
    """A gate's value in its unit."""
    assert measured({"unit": "share", "measured": 0.6763}) == "67.6%"
    assert measured({"unit": "ratio", "measured": 1.23456}) == "1.235"
    assert measured({"unit": "ratio"}) == "-"


def test_counts() -> None:
    """Singular for one alone, thousands with a comma."""
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
    """The first that is set decides; C and POSIX promise no more than ASCII."""
    assert is_ascii(locale) == ascii_only
