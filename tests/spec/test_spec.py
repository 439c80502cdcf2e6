"""Valid specs: the shipped ones, their hash, and the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from job.errors import InputError
from job.spec.diff import change_faults
from job.spec.faults.strict_json import walk
from job.spec.patch import Edit
from job.spec.patch import edited as patched
from job.spec.read import parse_spec, read_spec, schema
from job.spec.stored import has_content, is_stored
from tests.support.specs import FULL, TORCHJD, edited, lines, replaced, without

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "spec.json"]
SHIPPED += [ROOT / "docker" / f"{name}.json" for name in ("smoke", "failing", "mended")]
SHIPPED += sorted((ROOT / "docs" / "examples").glob("*.json"))

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


def test_the_order_of_rates_is_content() -> None:
    """The first pattern that matches counts, so another order is another spec, in every spelling
    of which the order stays; a run is not gone on with in another."""
    patterns = ["trunk.encoder.*", "*.bias"]
    ways = [
        edited(("optimizer", "rates"), dict.fromkeys(order, 0.1))
        for order in (patterns, patterns[::-1])
    ]
    one, other = (parse_spec(json.dumps(way)) for way in ways)
    assert list(parse_spec(one.canonical()).optimizer.rates) == patterns
    assert list(patched(one, [Edit(("seed",), 5)]).optimizer.rates) == patterns
    assert one.content_hash() != other.content_hash()
    assert is_stored(one, one.canonical())
    assert not is_stored(one, other.canonical())
    (fault,) = change_faults(*(json.loads(each.content()) for each in (one, other)))
    assert fault.where == "$.optimizer.rates"


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


def test_unset_encryption_is_no_content() -> None:
    """A spec without checkpoint.encryption has the hash that it had before the field existed."""
    plain = parse_spec(json.dumps(FULL))
    assert "encryption" not in plain.canonical()
    unset = parse_spec(json.dumps(edited(("checkpoint", "encryption"), None)))
    assert unset.content_hash() == plain.content_hash()
    for value in ({"kind": "sse-s3"}, {"kind": "aws:kms"}, {"kind": "aws:kms", "key_id": "k"}):
        encrypted = parse_spec(json.dumps(edited(("checkpoint", "encryption"), value)))
        assert encrypted.content_hash() != plain.content_hash()
        assert parse_spec(encrypted.canonical()) == encrypted


def test_a_field_that_came_later_is_no_content() -> None:
    """A spec without `control`, `data.seed` and a gate's `beyond_error` has the canonical text that
    it had before there were such fields; with one of them it is another job."""
    section = {"kind": "arrays", "path": "a.npz", "split": "tail", "scale": "none"}
    tasks = [{"name": "y", "level": "window", "loss": {"kind": "mse"}}]
    gates = [{"task": "y", "skill": 0.1, "by_epoch": 1, "split": "train"}]
    train = {"epochs": 1, "batch_size": 4, "evaluate": 8192}
    log = {"audit_every": 50}
    old = {"name": "t", "data": section, "tasks": tasks, "train": train, "log": log}
    plain = parse_spec(json.dumps({**old, "gates": gates}))
    before = "877ccbcd641524d2f25f98d69b80c07d0e3d01f102fcabb59408da8d599f252a"
    assert has_content(plain, before)
    content = json.loads(plain.canonical())
    assert "control" not in content
    assert "seed" not in content["data"]
    assert content["gates"] == gates
    unset = {"data": {**section, "seed": None}, "gates": [gates[0] | {"beyond_error": True}]}
    assert parse_spec(json.dumps({**old, "control": False, **unset})) == plain
    assert has_content(plain, plain.content_hash())
    for change in (
        {"control": True},
        {"data": {**section, "seed": 0}},
        {"gates": [gates[0] | {"beyond_error": False}]},
    ):
        changed = parse_spec(json.dumps({**old, "gates": gates, **change}))
        assert not has_content(changed, before)
        assert parse_spec(changed.canonical()) == changed


def test_sse_s3_has_no_key() -> None:
    """Only aws:kms has keys to choose from."""
    wrong = {"kind": "sse-s3", "key_id": "k"}
    with pytest.raises(InputError, match=r"checkpoint\.encryption\.key_id.*sse-s3 has no key"):
        parse_spec(json.dumps(edited(("checkpoint", "encryption"), wrong)))


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


# --- what a run begins with, and what people call it ----------------------------------------------


def test_label_and_notes_are_no_content() -> None:
    """They are stored, and change neither the hash nor whose spec a stored one is."""
    plain = parse_spec(json.dumps(FULL))
    named = parse_spec(json.dumps(FULL | {"label": "wide", "notes": "twice as wide"}))
    assert named.content_hash() == plain.content_hash()
    assert json.loads(named.canonical()) == json.loads(plain.canonical()) | {
        "label": "wide",
        "notes": "twice as wide",
    }
    assert is_stored(plain, named.canonical())
    assert is_stored(named, plain.canonical())
    longer = FULL | {"train": FULL["train"] | {"epochs": 9}}
    for other in (json.dumps(longer), "", "[]", "{", None):
        assert not is_stored(plain, other)


def test_what_a_run_begins_with_is_content() -> None:
    """A run that begins elsewhere is another run; a spec without either keeps its hash."""
    plain = parse_spec(json.dumps(FULL))
    start = edited(("model", "start_from"), {"run": "a"})
    specs = [parse_spec(json.dumps(each)) for each in (start, FULL | {"extends": "a"})]
    assert len({spec.content_hash() for spec in (plain, *specs)}) == 3
    assert not {"extends", "label", "notes"} & json.loads(plain.canonical()).keys()
    assert [spec.named_runs for spec in specs] == [
        {"$.model.start_from.run": "a"},
        {"$.extends": "a"},
    ]


@pytest.mark.parametrize(
    ("start", "fault"),
    [
        ({"run": ""}, "$.model.start_from.run"),
        ({"run": "a", "checkpoint": "newest"}, "$.model.start_from.checkpoint"),
        (
            {"run": "a", "checkpoint": "bset"},
            '$.model.start_from.checkpoint: found "bset" (string); must be a number or "best" or '
            '"last"; did you mean "best"?',
        ),
        (
            {"run": "a", "checkpoint": -1},
            "$.model.start_from.checkpoint: found -1; must be at least 0; raise it",
        ),
        (
            {"run": "a", "parts": "some"},
            '$.model.start_from.parts: found "some"; must be "all" or an array; write "all" or '
            '["some"]',
        ),
        (
            {"run": "a", "parts": []},
            "$.model.start_from.parts: found []; must have 1 or more items; add what is missing",
        ),
        (
            {"run": "a", "parts": ["trunk", ""]},
            '$.model.start_from.parts[1]: found ""; must not be empty; write a text',
        ),
        (
            {"run": "a", "parts": [3]},
            '$.model.start_from.parts[0]: found 3 (number); must be a string; write "3"',
        ),
        ({"run": "a", "file": "b"}, "$.model.start_from.file"),
    ],
)
def test_faults_of_start_from(start: dict[str, Any], fault: str) -> None:
    """Each fault is one line at the field that is wrong, and says what to write."""
    (found,) = lines(edited(("model", "start_from"), start))
    assert found.startswith(fault)


def test_a_network_begins_with_one_thing() -> None:
    """Not with a file and a run at once."""
    model = {"start_from": {"run": "a"}, "weights": {"path": "a.safetensors", "sha256": "0" * 64}}
    [line] = lines(edited(("model",), model))
    assert line.startswith("$.model.start_from: ")
