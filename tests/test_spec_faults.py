"""What is said about fields that are wrong, by themselves or together."""

from __future__ import annotations

import re
from typing import Any

import pytest

from job.strict_json import Steps, json_path, shown
from tests.specs import FULL, TORCHJD, edited, lines, without

NAMES = {str: "string", int: "number", float: "number", bool: "boolean", list: "array"}


@pytest.mark.parametrize(
    ("where", "value", "rule"),
    [
        (("train", "epochs"), "8", "must be a whole number"),
        (("train", "epochs"), 8.0, "must be a whole number"),
        (("train", "deterministic"), 1, "must be true or false"),
        (("seed",), True, "must be a whole number"),
        (("seed",), 2**31, "must be less than 2147483648; lower it"),
        (("optimizer",), 5, "must be an object"),
        (("optimizer", "lr"), 0, "must be greater than 0; raise it"),
        (("optimizer", "lr"), 10, "must be at most 1; lower it"),
        (("optimizer", "lrr"), 1, "there is no such key; did you mean `lr`?"),
        (("optimizer", "LR"), 1, "there is no such key; did you mean `lr`?"),
        (("modle",), {}, "there is no such key; did you mean `model`?"),
        (("schema_",), "x", "there is no such key; did you mean `$schema`?"),
        (("tasks", 1, "loss", "delt"), 1, "there is no such key; did you mean `delta`?"),
        (("tasks", 1, "loss", "delta"), 0, "must be at least 1e-38"),
        (("tasks", 0, "loss", "delta"), 1, "no such key; remove it; the keys here are kind"),
        (("tasks", 0, "name"), "../up", "must be 1 to 64 letters"),
        (("name",), "Upper", "must be 1 to 40 lower-case letters"),
        (("balance",), [], "must be an object"),
        (("balance", "kind"), "uncertanty", '"torchjd"; did you mean "uncertainty"?'),
        (("balance", "kind"), 3, 'must be one of "fixed", "running_mean"'),
        (("balance", "weights", "countdown"), "1", "must be a number"),
        (("data", "window"), "x", "must be a whole number"),
        (("data", "search"), [1, 60, 3], "must have at most 2 items"),
        (("data", "path"), "", "must not be empty"),
        (("gates",), 5, "must be an array"),
        (("gates", 0, "drop"), 1, "must be less than 1; lower it"),
        (("gates", 0, "by_epoch"), 1, "must be at least 2; raise it"),
        (("gates", 0), {"dropp": 0}, "one of the keys drop, skill, ratio; did you mean `drop`?"),
        (("gates", 1), 5, "a gate is an object with one of the keys drop, skill, ratio"),
        (("tasks",), [], "must have 1 or more items"),
        (("train", "schedule"), "cosin", 'one of "constant", "cosine", "one_cycle"; did you mean'),
        (("resources", "min_cuda"), "12.٨", "must be a version"),
    ],
)
def test_one_fault_one_line(where: Steps, value: Any, rule: str) -> None:
    """A wrong value gives one line: JSON path, what was found, the rule and the remedy."""
    (line,) = lines(edited(where, value))
    path, found, told = re.split(": found |; ", line, maxsplit=2)
    assert path == json_path(where)
    assert found.removesuffix(f" ({NAMES.get(type(value))})") == shown(value)
    assert rule in told
    assert "put should" not in line


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        (("balance",), {}, "$.balance.kind: found nothing; must be one of"),
        (("balance",), {**TORCHJD, "options": {"c": []}}, "$.balance.options.c: found [] (array)"),
        (("data", "search"), [1], "$.data.search[1]: found nothing; a value is required here"),
        (("tasks",), [5], "$.tasks[0]: found 5 (number); must be an object"),
    ],
)
def test_fault_within_a_value(where: Steps, value: Any, told: str) -> None:
    """A fault deeper than the value that was set is one line too, at its own path."""
    (line,) = lines(edited(where, value))
    assert line.startswith(told)


@pytest.mark.parametrize(
    ("where", "path"),
    [
        (("train", "epochs"), "$.train.epochs"),
        (("gates", 0, "by_epoch"), "$.gates[0].by_epoch"),
        (("tasks", 1, "transform", "by"), "$.tasks[1].transform.by"),
        (("data", "kind"), "$.data.kind"),
        (("tasks",), "$.tasks"),
    ],
)
def test_missing_fields(where: Steps, path: str) -> None:
    """A missing field is told by the path at which it belongs, without tags of unions in it."""
    (line,) = lines(without(*where))
    assert line.startswith(f"{path}: found nothing; ")
    assert line.endswith("; add it")


@pytest.mark.parametrize(
    ("where", "value", "rule"),
    [
        (("data", "window"), 50, "the search for the expansion ends at bar 74"),
        (("data", "lengths"), [9, 8], "the longest expansion is shorter than the shortest"),
        (("data", "search"), [60, 74], "an expansion of 20 bars does not fit between bars 60 and"),
        (("tasks", 0, "outputs"), 1, "cross_entropy needs at least 2 classes"),
        (("tasks", 0, "activation"), "relu", "cross_entropy takes logits"),
        (("tasks", 0, "transform"), {"kind": "standardize"}, "which have no scale to transform"),
        (("tasks", 1, "name"), "type", 'two tasks are named "type"; give each its own name'),
        (("gates", 0, "task"), "typo", '"typo" is not a task; the tasks are type, countdown'),
        (("gates", 2, "ratio", 1), "typo", '"typo" is not a task'),
        (("gates", 2, "ratio"), ["type", "type"], "a task's ratio to itself is always 1"),
        (("gates", 2, "between"), [3, 3], "the largest ratio must exceed the smallest"),
        (("gates", 0, "by_epoch"), 9, "is read at epoch 9, the run ends at epoch 8"),
        (("gates", 1), FULL["gates"][0] | {"split": "train"}, "the same gate stands at gates[0]"),
        (("balance", "weights", "a b"), 1, '"a b" is not a task'),
        (("balance", "weights", "a\nb"), 1, '"a\\nb" is not a task'),
        (("train", "early_stop", "task"), "x", '"x" is not a task'),
        (("checkpoint", "best_of"), "x", '"x" is not a task'),
    ],
)
def test_rules_between_fields(where: Steps, value: Any, rule: str) -> None:
    """A rule between fields that does not hold is told at the field to edit."""
    told = [line for line in lines(edited(where, value)) if line.startswith(json_path(where))]
    assert len(told) == 1
    assert f"found {shown(value)}; " in told[0]
    assert rule in told[0]


def test_a_whole_line() -> None:
    """A line reads as a sentence; what was found is spelled as in the file, and shortened."""
    (line,) = lines(edited(("train", "schedule"), "cosiné" + "!" * 99))
    assert line == (
        f'$.train.schedule: found "cosiné{"!" * 52}…; '
        'must be one of "constant", "cosine", "one_cycle"; write one of these'
    )


def test_rule_about_a_default() -> None:
    """Where a default breaks a rule, the line says that the value is the default."""
    (line,) = lines(without("tasks", 0, "outputs"))
    assert line.startswith("$.tasks[0].outputs: found 1 (the default); cross_entropy needs")


def test_all_faults_in_the_order_of_the_file() -> None:
    """Every fault is told at once, in the file's order, what is missing last in its object."""
    spec = without("train", "epochs")
    spec["data"]["validation"] = 2
    spec["tasks"][0]["transform"] = {"kind": "standardize"}
    spec["tasks"][1]["loss"]["delta"] = -1
    spec["train"]["clip"] = "1"
    spec["gates"][0]["by_epoch"] = 1
    paths = [line.split(":")[0] for line in lines({"nam": "x", **spec})]
    assert paths == [
        "$.nam",
        "$.data.validation",
        "$.tasks[0].transform",
        "$.tasks[1].loss.delta",
        "$.train.clip",
        "$.train.epochs",
        "$.gates[0].by_epoch",
    ]
