"""Faults of fields that are wrong, by themselves or together."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from job.spec.faults.strict_json import Steps, excerpt, json_path
from job.spec.read import parse_spec
from tests.support.specs import FULL, TORCHJD, edited, lines, replaced, without

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
        (
            ("gates", 0),
            {"dropp": 0},
            "one of the keys drop, skill, metric, ratio; did you mean `drop`?",
        ),
        (("gates", 1), 5, "a gate is an object with one of the keys drop, skill, metric, ratio"),
        (("tasks",), [], "must have 1 or more items"),
        (("train", "schedule"), "cosin", 'one of "constant", "cosine", "one_cycle"; did you mean'),
        (("resources", "min_cuda"), "12.٨", "must be a version"),
    ],
)
def test_one_fault_one_line(where: Steps, value: Any, rule: str) -> None:
    """A wrong value gives one line: JSON path, what was found, the rule and the remedy."""
    (line,) = lines(edited(where, value))
    path, found, rest = re.split(": found |; ", line, maxsplit=2)
    assert path == json_path(where)
    assert found.removesuffix(f" ({NAMES.get(type(value))})") == excerpt(value)
    assert rule in rest
    assert "put should" not in line


@pytest.mark.parametrize(
    ("where", "value", "start"),
    [
        (("balance",), {}, "$.balance.kind: found nothing; must be one of"),
        (("balance",), {**TORCHJD, "options": {"c": []}}, "$.balance.options.c: found [] (array)"),
        (("data", "search"), [1], "$.data.search[1]: found nothing; a value is required here"),
        (("tasks",), [5], "$.tasks[0]: found 5 (number); must be an object"),
    ],
)
def test_fault_within_a_value(where: Steps, value: Any, start: str) -> None:
    """A fault deeper than the value that was set is one line too, at its own path."""
    (line,) = lines(edited(where, value))
    assert line.startswith(start)


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
    """A missing field is named by the path where it belongs, without tags of unions in it."""
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
        (("gates", 1), FULL["gates"][0] | {"split": "train"}, "gates[0] is the same gate"),
        (("balance", "weights", "a b"), 1, '"a b" is not a task'),
        (("balance", "weights", "a\nb"), 1, '"a\\nb" is not a task'),
        (("train", "early_stop", "task"), "x", '"x" is not a task'),
        (("checkpoint", "best_of"), "x", '"x" is not a task'),
    ],
)
def test_rules_between_fields(where: Steps, value: Any, rule: str) -> None:
    """A broken rule between fields is reported at the field to edit."""
    found = [line for line in lines(edited(where, value)) if line.startswith(json_path(where))]
    assert len(found) == 1
    assert f"found {excerpt(value)}; " in found[0]
    assert rule in found[0]


MEASURED: dict[str, Any] = FULL | {
    "tasks": [FULL["tasks"][0] | {"metrics": ["macro_f1", "accuracy"]}, FULL["tasks"][1]],
    "train": FULL["train"] | {"early_stop": {"task": "type", "metric": "accuracy"}},
    "checkpoint": {"best_of": "type", "best_metric": "accuracy"},
    "gates": [{"task": "type", "metric": "macro_f1", "above": 0.5, "below": 0.9, "by_epoch": 8}],
}
"""A spec that reads metrics."""


@pytest.mark.parametrize(
    ("where", "value", "rule"),
    [
        (("tasks", 0, "metrics", 1), "r2", "cross_entropy has no such metric; it has accuracy, "),
        (("tasks", 0, "metrics", 1), "macro_f1", "the metric is named twice; remove one"),
        (("tasks", 0, "metrics", 1), "macrof1", 'did you mean "macro_f1"?'),
        (("tasks", 0, "metrics"), "accuracy", 'must be an array; write ["accuracy"]'),
        (("gates", 0, "metric"), "auroc", "measures macro_f1, accuracy; name one of these"),
        (("gates", 0, "metric"), "macro_recall", "; add it to tasks[0].metrics"),
        (("gates", 0, "above"), 0.9, "nothing is above and below at once"),
        (("train", "early_stop", "metric"), "r2", 'the task "type" measures macro_f1, accuracy'),
        (("train", "early_stop", "task"), "*", "a metric is of one task; name the task, or drop"),
        (("checkpoint", "best_metric"), "mae", 'the task "type" measures macro_f1, accuracy'),
        (("checkpoint", "best_of"), "*", "a metric is of one task"),
    ],
)
def test_a_metric_is_one_that_its_task_measures(where: Steps, value: Any, rule: str) -> None:
    """Wherever one is named; what is nearly a name is suggested."""
    assert parse_spec(json.dumps(MEASURED)).tasks[0].measured == ("macro_f1", "accuracy")
    found = lines(replaced(MEASURED, where, value))
    assert any(line.startswith(json_path(where[:1])) and rule in line for line in found)


def test_a_metric_needs_a_bound() -> None:
    """A gate without one would say nothing."""
    gate = {"task": "type", "metric": "macro_f1", "by_epoch": 8}
    (line,) = lines(replaced(MEASURED, ("gates", 0), gate))
    assert line.endswith("a metric's gate needs a bound; set above or below")


@pytest.mark.parametrize(
    ("where", "value", "remedy"),
    [
        (("tasks", 1, "loss", "kind"), "bce", 'did you mean "binary_cross_entropy"?'),
        (("tasks", 1, "loss", "kind"), "BCEWithLogitsLoss", 'mean "binary_cross_entropy"?'),
        (("tasks", 1, "loss", "kind"), "ce", 'did you mean "cross_entropy"?'),
        (("tasks", 1, "loss", "kind"), "L1Loss", 'did you mean "mae"?'),
        (("tasks", 1, "loss", "kind"), "smooth_l1", 'did you mean "huber"?'),
        (("tasks", 1, "loss", "kind"), "hinge", "write one of these"),
        (("tasks", 1, "loss", "kind"), "focal_loss", 'did you mean "cross_entropy"?'),
        (("tasks", 1, "loss", "kind"), "PinballLoss", 'did you mean "quantile"?'),
        (("tasks", 1, "loss", "kind"), "poisson", 'did you mean "poisson_nll"?'),
        (("tasks", 1, "loss", "kind"), "CORN", 'did you mean "ordinal"?'),
        (("tasks", 1, "loss", "kind"), "ranknet", 'did you mean "ranking"?'),
        (("tasks", 1, "loss"), "bce", 'write {"kind": "binary_cross_entropy"}'),
        (("balance",), "uncertainty", 'write {"kind": "uncertainty"}'),
        (("balance", "kind"), "PCGrad", 'did you mean "torchjd"?'),
        (("balance",), None, "remove the key to use the default"),
        (("train", "precision"), "float16", 'did you mean "fp16"?'),
        (("train", "device"), "cuda:0", 'did you mean "cuda"?'),
        (("train", "epochs"), "8", "write 8"),
        (("train", "epochs"), 8.0, "write 8"),
        (("train", "epochs"), 8.5, "write digits only, such as 8"),
        (("data", "window"), 1e300, "write digits only, such as 8"),
        (("optimizer", "lr"), "1e-3", "write 0.001"),
        (("optimizer", "lr"), "0,001", "write 0.001"),
        (("optimizer", "lr"), ".5", "write 0.5"),
        (("optimizer", "lr"), "fast", "write digits, such as 0.5"),
        (("optimizer", "betas"), 0.9, "write 2 values in [ ]"),
        (("optimizer", "learning_rate"), 0.1, "did you mean `lr`?"),
        (("train", "lr"), 0.1, "move it to $.optimizer"),
        (("epochs",), 8, "move it to $.train"),
        (("train", "deterministic"), "True", "write true"),
        (("train", "deterministic"), 0, "write false"),
        (("resources", "gpu"), "NVIDIA L4", 'write ["NVIDIA L4"]'),
        (("resources", "min_cuda"), 12.8, 'write "12.8"'),
        (("gates",), {"task": "type"}, "put it in [ ]"),
        (("name",), "My Job!", 'write "my-job"'),
        (("tasks", 0, "name"), "my task", 'write "my_task"'),
    ],
)
def test_remedies(where: Steps, value: Any, remedy: str) -> None:
    """The remedy is what a user would write: a value that is valid JSON, or the nearest name."""
    at_path = [line for line in lines(edited(where, value)) if line.startswith(json_path(where))]
    assert at_path[0].endswith(remedy)


def test_a_secret_is_not_repeated() -> None:
    """A secret's value in place of its name is refused, and the line does not hold it."""
    value = "wJalrXUtnFEMI+K7MDENG=bPxRfiCY"
    (line,) = lines(edited(("resources", "secrets"), {"AWS_SECRET_ACCESS_KEY": value}))
    assert line.startswith("$.resources.secrets.AWS_SECRET_ACCESS_KEY: found a text that is no ")
    assert value not in line


def test_a_bad_key_is_named() -> None:
    """A key that has not the form of a name is reported as a key."""
    (line,) = lines(edited(("resources", "secrets"), {"bad key": "s3"}))
    assert line.startswith('$.resources.secrets["bad key"]: found the key "bad key"; must be')


def test_a_whole_line() -> None:
    """A line reads as a sentence; the value is spelled as in the file, and shortened."""
    (line,) = lines(edited(("train", "schedule"), "cosiné" + "!" * 99))
    assert line == (
        f'$.train.schedule: found "cosiné{"!" * 52}…; '
        'must be one of "constant", "cosine", "one_cycle"; did you mean "cosine"?'
    )


def test_rule_about_a_default() -> None:
    """If a default breaks a rule, the line says that the value is the default."""
    (line,) = lines(without("tasks", 0, "outputs"))
    assert line.startswith("$.tasks[0].outputs: found 1 (the default); cross_entropy needs")


def test_all_faults_in_the_order_of_the_file() -> None:
    """All faults come at once, in the file's order; a missing key comes last in its object."""
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
