"""Strings of records as a terminal gets them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.show.printable import printable


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("loss of type: 0.5", "loss of type: 0.5"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hgone", "gone"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;https://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("\x9d0;title\x9ctext", "text"),
        ("\x1bc reset", " reset"),
        ("cut \x1b[3", "cut "),
        ("cut \x1b", "cut "),
        ("a\nb\tc", "a b c"),
        ("over\rwritten", "over written"),
        ("a\x08\x7f\x00b", "ab"),
        ("\u202egpj.exe", "gpj.exe"),
        ("µg·m⁻³ Ω 微克 \N{FAMILY}", "µg·m⁻³ Ω 微克 \N{FAMILY}"),
    ],
)
def test_printable(text: str, plain: str) -> None:
    """Escape sequences go whole, other control characters go, all other text stays."""
    assert printable(text) == plain


@given(st.text(st.characters(max_codepoint=0x2070)))
def test_no_control_character_is_left(text: str) -> None:
    """Whatever the text, a terminal gets no control character, and no line break."""
    plain = printable(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in plain)
    assert len(plain.splitlines()) <= 1
    assert printable(plain) == plain
