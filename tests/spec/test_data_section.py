"""The spec's data section for stored arrays: forms of its fields, its rules, and its content."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from job.spec import JobSpec
from job.spec.read import parse_spec
from job.spec.stored import completed, has_content, parse_stored, spellings
from tests.support.specs import lines

BASE: dict[str, Any] = {
    "name": "t",
    "data": {"kind": "arrays", "path": "a.npz"},
    "tasks": [
        {"name": "y", "level": "sample", "loss": {"kind": "mse"}},
        {"name": "k", "level": "window", "outputs": 3, "loss": {"kind": "cross_entropy"}},
        {"name": "s", "level": "step", "outputs": 3, "loss": {"kind": "cross_entropy"}},
    ],
    "train": {"epochs": 1, "batch_size": 4},
}


def written(**data: Any) -> dict[str, Any]:
    spec = copy.deepcopy(BASE)
    spec["data"] |= data
    return spec


def parsed(**data: Any) -> JobSpec:
    return parse_spec(json.dumps(written(**data)))


@pytest.mark.parametrize(
    "data",
    [
        {"split": {"group": "who"}, "features": ["a", "b_*"]},
        {"split": {"stratified": "k"}, "validation": {"path": "v.npz"}, "test": 0.1},
        {"split": {"column": "part"}, "missing": "mean"},
        {"test": {"path": "t.npz"}, "scale": "robust", "missing": "indicator"},
    ],
)
def test_content_is_what_was_written(data: dict[str, Any]) -> None:
    """A spec's content has each value as it was written, and reads as the same spec again."""
    job = parsed(**data)
    content = json.loads(job.canonical())["data"]
    assert {name: content[name] for name in data} == data
    assert parse_spec(job.canonical()).content_hash() == job.content_hash()


def test_what_is_not_used_is_not_in_the_content() -> None:
    """Fields that older specs do not know leave no trace while they have their default."""
    content = json.loads(parsed().canonical())["data"]
    assert (
        content
        == written(features="features", scale="standardize", split="random", validation=0.2)["data"]
    )


def test_a_sample_is_a_window() -> None:
    """`sample` and `window` are one level, and one content."""
    other = written()
    other["tasks"][0]["level"] = "window"
    assert parse_spec(json.dumps(other)).content_hash() == parsed().content_hash()


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"split": 3}, '$.data.split: found 3; must be one of "random", "tail"; write one of'),
        ({"split": "randm"}, '$.data.split: found "randm"; must be one of "random", "tail"; did'),
        ({"split": {"grop": "g"}}, '$.data.split.grop: found "g"; there is no such key; did you'),
        ({"split": {"group": 3}}, "$.data.split.group: found 3 (number); must be a string; write"),
        (
            {"split": {}},
            "$.data.split: found {}; a split has one of the keys stratified, group, co",
        ),
        (
            {"split": {"group": "a", "column": "b"}},
            '$.data.split: found {"group": "a", "column": "b"}; a split has one of the keys strati',
        ),
        (
            {"split": {"stratified": "z"}},
            '$.data.split.stratified: found "z"; "z" is not a task; the tasks are y, k, s; name',
        ),
        (
            {"split": {"stratified": "y"}},
            '$.data.split.stratified: found "y"; y has not one class per sample; name a window',
        ),
        (
            {"split": {"stratified": "s"}},
            '$.data.split.stratified: found "s"; s has not one class per sample; name a window',
        ),
        ({"validation": 2}, "$.data.validation: found 2; must be less than 1; lower it"),
        ({"validation": "v"}, '$.data.validation: found "v" (string); must be a number; write'),
        ({"validation": {}}, "$.data.validation.path: found nothing; a value is required here"),
        ({"test": 0.8}, "$.data.test: found 0.8; with validation = 0.2 nothing is left to train"),
        (
            {"test": 0.1, "split": {"column": "c"}},
            "$.data.test: found 0.1; column c says already which samples are for the test; remove",
        ),
        (
            {"validation": {"path": "v"}, "split": {"column": "c"}},
            '$.data.validation: found {"path": "v"}; column c says already which samples are for',
        ),
        ({"features": 3}, "$.data.features: found 3 (number); must be a string or an array; write"),
        ({"features": []}, "$.data.features: found []; must name one column or more; name the"),
        ({"scale": "std"}, '$.data.scale: found "std"; must be one of "standardize", "robust"'),
        ({"missing": "drop"}, '$.data.missing: found "drop"; must be one of "refuse", "mean"'),
    ],
)
def test_faults(data: dict[str, Any], line: str) -> None:
    """Each fault is one line at the place to edit."""
    (found,) = lines(written(**data))
    assert found.startswith(line)


def test_a_stored_spec_of_an_older_version() -> None:
    """Without `scale` it meant none: it reads as that, and its hash is one of that spec's."""
    job = parsed(scale="none", split="tail")
    older = json.loads(job.canonical())
    del older["data"]["scale"]
    text = json.dumps(older, sort_keys=True)
    assert completed(older) == json.loads(job.canonical())
    assert parse_stored(text, "spec.json") == job
    assert spellings(job) == [job.canonical(), text]
    assert has_content(job, job.content_hash())
    assert not has_content(job, parsed(split="tail").content_hash())
    assert spellings(parsed()) == [parsed().canonical()]
