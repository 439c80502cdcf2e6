"""Valid specs: the shipped ones, their hash, and the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from job.faults import InputError
from job.read_spec import parse_spec, read_spec, schema
from job.strict_json import walk
from tests.specs import FULL, TORCHJD, edited, lines, replaced, without

ROOT = Path(__file__).parents[1]
SHIPPED = [ROOT / name for name in ("spec.json", "docker/smoke.json", "docker/failing.json")]

# --- valid specs ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_specs_are_valid(path: Path) -> None:
    """Every spec in the repository is valid by our own reading and by the schema it names."""
    assert read_spec(path).schema_
    jsonschema.validate(json.loads(path.read_text()), schema())


def test_whole_numbers_pass_for_floats() -> None:
    """`1` is a float where a float is asked for, and the same spec as `1.0`."""
    spec = parse_spec(json.dumps(edited(("tasks", 1, "loss", "delta"), 1)))
    again = parse_spec(json.dumps(edited(("tasks", 1, "loss", "delta"), 1.0)))
    assert spec.content_hash() == again.content_hash()


def test_spec_is_frozen() -> None:
    """No field of a spec can be set after it was read, however deep."""
    spec = parse_spec(json.dumps(FULL))
    with pytest.raises(ValidationError, match="frozen"):
        spec.seed = 4  # type: ignore[misc]  # that is the claim
    with pytest.raises(ValidationError, match="frozen"):
        spec.optimizer.lr = 1.0  # type: ignore[misc]  # that is the claim


def backwards(value: Any) -> Any:
    """The same JSON with the keys of every object in reverse."""
    if isinstance(value, dict):
        return {key: backwards(inner) for key, inner in reversed(value.items())}
    return [backwards(inner) for inner in value] if isinstance(value, list) else value


def test_hash_ignores_spelling() -> None:
    """The hash is the same for another order of keys, another `$schema`, defaults written out."""
    spec = parse_spec(json.dumps(FULL))
    respelled = {"$schema": "elsewhere", **backwards(FULL)}
    assert parse_spec(json.dumps(respelled)).content_hash() == spec.content_hash()
    assert parse_spec(spec.canonical()).content_hash() == spec.content_hash()


def test_hash_sees_every_value() -> None:
    """A change of any single value of a canonical spec changes the hash."""
    canonical = json.loads(parse_spec(json.dumps(FULL)).canonical())
    before = parse_spec(json.dumps(canonical)).content_hash()
    seen = 0
    for steps, value in walk(canonical):
        for other in [value * 0.9] if isinstance(value, float) else [value, f"{value}", 7, None]:
            try:
                changed = parse_spec(json.dumps(replaced(canonical, steps, other)))
            except InputError:
                continue
            if other != value:
                seen += 1
                assert changed.content_hash() != before, (steps, other)
    assert seen > 30


# --- the schema -------------------------------------------------------------------------------


def test_schema_describes_every_property() -> None:
    """The schema is a valid one of draft 2020-12, and no property is without a description."""
    published = schema()
    jsonschema.Draft202012Validator.check_schema(published)
    assert {"$id", "title", "$schema"} <= published.keys()
    sections = [published, *published["$defs"].values()]
    properties = [(s["title"], *p) for s in sections for p in s["properties"].items()]
    assert len(properties) > 80
    assert [(s, name) for s, name, p in properties if not p.get("description")] == []


def test_schema_agrees() -> None:
    """The schema takes what we take and refuses an unknown key, a wrong type and a bound."""
    validator = jsonschema.Draft202012Validator(schema())
    for good in (FULL, edited(("balance",), TORCHJD), without("resources")):
        parse_spec(json.dumps(good))
        assert validator.is_valid(good)
    for bad in (
        edited(("tusks",), []),
        edited(("train", "epochs"), "8"),
        edited(("optimizer", "lr"), 0),
        edited(("balance", "kind"), "uncertanty"),
        edited(("gates", 0), {}),
    ):
        assert not validator.is_valid(bad)
        assert lines(bad)
