"""What is said about a spec file that cannot be read, or is no plain JSON."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.faults import InputError
from job.read_spec import parse_spec, read_spec
from job.strict_json import Steps, walk
from tests.specs import FULL, edited, lines


def test_unreadable_files(tmp_path: Path) -> None:
    """Each way in which a file cannot be read as text has its own line, which names the file."""
    cases = {
        "missing.json": "found nothing|no such file",
        ".": "a directory",
        "latin.json": "byte 0xe9 at offset 1; the file must be UTF-8",
        "utf16.json": "must be UTF-8",
        "bom.json": "byte order mark",
        "empty.json": "found nothing; a spec is a JSON object",
        "large.json": "more than 1 MiB",
        "nul\0.json": "null byte",
        "latin.json/in": "Not a directory",
    }
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    (tmp_path / "utf16.json").write_text("{}", "utf-16")
    (tmp_path / "bom.json").write_text("{}", "utf-8-sig")
    (tmp_path / "empty.json").write_text(" \n")
    (tmp_path / "large.json").write_text(" " * (2**20 + 1))
    for name, told in cases.items():
        with pytest.raises(InputError, match=told) as caught:
            read_spec(tmp_path / name)
        assert len(caught.value.faults) == 1
        assert str(tmp_path) in caught.value.faults[0].where


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path: Path) -> None:
    """A file without permission is told as such."""
    path = tmp_path / "secret.json"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(InputError, match="no permission"):
        read_spec(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1,\n}', "my.json, line 2, column 1: found"),
        ("{'a': 1}", "line 1, column 2: found"),
        ('{"a": 1} x', 'column 10: found "x"; this is not JSON: extra data'),
        ('{"a": 1', "found the end of the line; this is not JSON"),
        ('{"a": "\\x"}', "this is not JSON"),
        ("\ufeff{}", "my.json: found a byte order mark"),
        ("", "my.json: found nothing"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("[" * 99 + "]" * 99, "nested more than 64 deep"),
        ("[]", "$: found [] (array); must be an object"),
        ("3", "$: found 3 (number); must be an object"),
    ],
)
def test_broken_text_is_one_line(text: str, told: str) -> None:
    """A text that is no JSON object gives one line, with line and column where there is one."""
    (line,) = lines(text)
    assert told in line


@pytest.mark.parametrize(
    "token", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "9" * 5000]
)
@pytest.mark.parametrize("key", ["lr", "betas", "unknown"])
def test_numbers_that_are_not_finite(token: str, key: str) -> None:
    """NaN, an infinity or a number too large is refused wherever it stands, by its spelling."""
    text = json.dumps(edited(("optimizer", key), "HERE")).replace('"HERE"', token)
    told = [line for line in lines(text) if "must be finite" in line]
    assert told[0].startswith(f"$.optimizer.{key}: found {token[:50]}")
    assert len(lines(text)) == 1


def test_repeated_keys() -> None:
    """A key that stands twice in one object is refused, with its path, beside other faults."""
    text = json.dumps(edited(("train", "epochs"), "8"))
    text = text.replace('"hidden": 8', '"hidden": 8, "\\u0068idden": 9')
    first, second = lines(text)
    assert first.startswith('$.model.hidden: found the key "hidden" more than once')
    assert second.startswith('$.train.epochs: found "8" (string)')


def test_half_characters() -> None:
    """Half of a surrogate pair is refused, and can be printed."""
    told = lines(edited(("data", "path"), "\ud800")) + lines(edited(("balance", "\udfff"), 1))
    assert told[0].startswith('$.data.path: found "\\ud800"; text must be whole')
    assert "\n".join(told).encode()


# --- anything at all --------------------------------------------------------------------------

PLACES = [steps for steps, _ in walk(FULL) if steps]
KEYS = st.sampled_from(sorted({str(s[-1]) for s in PLACES})) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
LINE = re.compile(r"(\$[^\n]*|my\.json[^\n]*): found .+; .+; .+")


def valid_or_told(text: str) -> None:
    """Whatever the text: a spec with a hash, or lines that each have path, rule and remedy."""
    told: InputError | None = None
    try:
        spec = parse_spec(text, "my.json")
    except InputError as error:
        told = error
    if told is None:
        assert parse_spec(spec.canonical()).content_hash() == spec.content_hash()
        return
    assert len(str(told).splitlines()) == len(told.faults) > 0
    for line in str(told).splitlines():
        assert LINE.fullmatch(line), line
        assert "should be" not in line


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from("drs"), KEYS, JSON), max_size=3))
def test_any_edit_is_valid_or_told(edits: list[tuple[Steps, str, str, Any]]) -> None:
    """Keys deleted or renamed and values replaced by anything end in a spec or in plain lines."""
    spec = copy.deepcopy(FULL)
    for steps, how, key, value in edits:
        inner: Any = spec
        try:
            for step in steps[:-1]:
                inner = inner[step]
            if how == "s":
                inner[steps[-1]] = value
            else:
                old = inner.pop(steps[-1])
                if how == "r" and isinstance(inner, dict):
                    inner[key] = old
        except (LookupError, TypeError, AttributeError):
            continue  # an earlier edit has removed the place
    valid_or_told(json.dumps(spec))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(JSON.map(json.dumps) | st.text() | st.text('{}[]",:0123456789.eE-+\\u \nd8', max_size=30))
def test_any_text_is_valid_or_told(text: str) -> None:
    """Any JSON value, and any text at all, ends in plain lines."""
    valid_or_told(text)
