"""Faults of a spec file that cannot be read, or is no plain JSON."""

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

from job.errors import InputError
from job.spec.faults.strict_json import Steps, walk
from job.spec.read import parse_spec, read_spec
from tests.support.specs import FULL, TORCHJD, edited, lines, replaced


def test_unreadable_files(tmp_path: Path) -> None:
    """A file that cannot be read as text gives one line, which names the file and the reason."""
    cases = {
        "missing.json": "found nothing|no such file",
        ".": "a directory",
        "pipe": "a FIFO or pipe; a spec is a file",
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
    os.mkfifo(tmp_path / "pipe")
    for name, reason in cases.items():
        with pytest.raises(InputError, match=reason) as caught:
            read_spec(tmp_path / name)
        assert len(caught.value.faults) == 1
        assert str(tmp_path) in caught.value.faults[0].where


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_devices(device: str) -> None:
    """A device is refused and not read."""
    with pytest.raises(InputError, match=f"{device}: found ") as caught:
        read_spec(Path(device))
    assert len(caught.value.faults) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path: Path) -> None:
    """A file without permission to read gives a line that says so."""
    path = tmp_path / "secret.json"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(InputError, match="no permission"):
        read_spec(path)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"a": 1,\n}', "my.json, line 2, column 1: found"),
        ("{'a': 1}", "line 1, column 2: found"),
        ('{"a": 1} x', 'column 10: found "x"; this is not JSON: nothing may follow'),
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
def test_broken_text_is_one_line(text: str, part: str) -> None:
    """A text that is no JSON object gives one line, with line and column if there is one."""
    (line,) = lines(text)
    assert part in line


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ('{"a": 1,\n}', "remove the comma before it, or add what is missing"),
        ('{"a": 1\n"b": 2}', "add the missing comma before it"),
        ('{"a" 1}', "add the colon"),
        ('{"a":, "b": 1}', "add what is missing before the comma"),
        ("{'a': 1}", "write texts and keys in double quotes"),
        ("{a: 1}", "write texts and keys in double quotes"),
        ('{"a": True}', "write true or false in lower case"),
        ('{"a": None}', "write null"),
        ('{"a": .5}', "write numbers like 1000, -0.5 or 1e-3"),
        ('{"a": 1_000}', "write numbers like 1000, -0.5 or 1e-3"),
        ('{"a": 1} // why', "remove it, or the bracket before it"),
        ('{"a": 1, // why\n"b": 2}', "remove the comment: JSON has none"),
        ('{"a": "C:\\data"}', "write a backslash as \\\\"),
        ('{"a": "b', "close it with a double quote"),
        ('{"a": [1, 2', "close every bracket and string"),
    ],
)
def test_remedies_of_broken_text(text: str, remedy: str) -> None:
    """The remedy names the edit that makes the text JSON."""
    (line,) = lines(text)
    assert line.endswith(f"; {remedy}")


@pytest.mark.parametrize("code", [0x00, 0x07, 0x0A, 0x1B, 0x7F, 0x9B, 0x2028, 0x202E, 0x2066])
@pytest.mark.parametrize("where", [("tasks", 1, "unit"), ("data", "path"), ("balance", "options")])
def test_control_characters(where: Steps, code: int) -> None:
    """A control character in a string or key is refused; the line does not repeat it."""
    text = f"a{chr(code)}[31mb"
    value = {text: 1} if where[-1] == "options" else text
    spec = edited(("balance",), TORCHJD)
    rule = f"here is U+{code:04X}"
    refused = [line for line in lines(replaced(spec, where, value)) if rule in line]
    assert len(refused) == 1
    assert refused[0].isprintable()


def test_other_scripts_are_text() -> None:
    """Letters, signs and emoji of any script, joined or not, are no control characters."""
    unit = "µg·m⁻³ Ω ‰ 微克 \N{FAMILY}\N{ZERO WIDTH JOINER}\N{BOY} \N{NO-BREAK SPACE}"
    assert parse_spec(json.dumps(edited(("tasks", 0, "unit"), unit))).tasks[0].unit == unit


@pytest.mark.parametrize(
    "token", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "9" * 5000]
)
@pytest.mark.parametrize("key", ["lr", "betas", "unknown"])
def test_numbers_that_are_not_finite(token: str, key: str) -> None:
    """NaN, an infinity or a number too large is refused wherever it stands, by its spelling."""
    text = json.dumps(edited(("optimizer", key), "HERE")).replace('"HERE"', token)
    finite = [line for line in lines(text) if "must be finite" in line]
    assert finite[0].startswith(f"$.optimizer.{key}: found {token[:50]}")
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
    both = lines(edited(("data", "path"), "\ud800")) + lines(edited(("balance", "\udfff"), 1))
    assert both[0].startswith('$.data.path: found "\\ud800"; text must be whole')
    assert "\n".join(both).encode()


# --- anything at all --------------------------------------------------------------------------

PLACES = [steps for steps, _ in walk(FULL) if steps]
KEYS = st.sampled_from(sorted({str(s[-1]) for s in PLACES})) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
LINE = re.compile(r"(\$[^\n]*|my\.json[^\n]*): found .+; .+; .+")


def valid_or_explained(text: str) -> None:
    """Whatever the text: a spec with a hash, or lines that each have path, rule and remedy."""
    try:
        spec = parse_spec(text, "my.json")
    except InputError as error:
        explained = error
    else:
        assert parse_spec(spec.canonical()).content_hash() == spec.content_hash()
        return
    assert len(str(explained).splitlines()) == len(explained.faults) > 0
    for line in str(explained).splitlines():
        assert LINE.fullmatch(line), line
        assert "should be" not in line


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from("drs"), KEYS, JSON), max_size=3))
def test_any_edit_is_valid_or_explained(edits: list[tuple[Steps, str, str, Any]]) -> None:
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
    valid_or_explained(json.dumps(spec))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(JSON.map(json.dumps) | st.text() | st.text('{}[]",:0123456789.eE-+\\u \nd8', max_size=30))
def test_any_text_is_valid_or_explained(text: str) -> None:
    """Any JSON value, and any text at all, ends in plain lines."""
    valid_or_explained(text)
