"""The space of a search: which values it names, what the spec refuses, and the specs it makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from job.errors import InputError
from job.search.objective import Objective
from job.search.space import Space, read_space
from job.spec.read import read_spec
from tests.support.tiny_job import SMALL, write

LR = {"low": 0.0001, "high": 0.1, "log": True}


def space(folder: Path, content: Any, edits: dict[str, Any] | None = None) -> Space:
    """The space of that content, for the small spec with edits."""
    spec, path = write(folder, edits), folder / "space.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_space(path, json.loads(spec.read_text()), folder)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("optimizer.lr", ("optimizer", "lr")),
        ("$.optimizer.lr", ("optimizer", "lr")),
        ("tasks[2].loss.delta", ("tasks", 2, "loss", "delta")),
        ("tasks[down].loss.delta", ("tasks", 2, "loss", "delta")),
        ('optimizer.rates["*bias*"]', ("optimizer", "rates", "*bias*")),
    ],
)
def test_a_path(tmp_path: Path, name: str, keys: tuple[str | int, ...]) -> None:
    """Keys and indexes; an item of a list by its name; the value lands where it leads."""
    made = space(tmp_path, {name: {"low": 0.25, "high": 0.75}})
    assert made.dimensions[0].keys == keys
    value: Any = json.loads(made.spec({name: 0.5}).canonical())
    for key in keys:
        value = value[key]
    assert value == 0.5


def test_the_spec_decides_what_is_whole(tmp_path: Path) -> None:
    """Ends of 1 and 2 are whole numbers of epochs, and any numbers of a delta."""
    ends = {"low": 1, "high": 2}
    made = space(tmp_path, {"train.epochs": ends, "tasks[down].loss.delta": ends})
    assert [each.whole for each in made.dimensions] == [True, False]
    assert made.spec({"train.epochs": 2, "tasks[down].loss.delta": 1.5}).train.epochs == 2


def test_choices_of_any_values(tmp_path: Path) -> None:
    """Numbers, arrays and whole sections; texts stand for them, as Optuna keeps no others."""
    balances = [{"kind": "fixed"}, {"kind": "running_mean"}]
    made = space(
        tmp_path, {"train.batch_size": {"choices": [4, 8]}, "balance": {"choices": balances}}
    )
    values = {"train.batch_size": "4", "balance": '{"kind": "running_mean"}'}
    spec = made.spec(values)
    assert (spec.train.batch_size, spec.balance.kind) == (4, "running_mean")
    assert made.spec_values(values) == {"train.batch_size": 4, "balance": balances[1]}


def test_a_value_within_a_section(tmp_path: Path) -> None:
    """Behind the choices of a section, a path that leads into it sets its value there."""
    sections = [{"kind": "adamw"}, {"kind": "adamw", "weight_decay": 0.5}]
    made = space(tmp_path, {"optimizer": {"choices": sections}, "optimizer.lr": LR})
    spec = made.spec({"optimizer": json.dumps(sections[1]), "optimizer.lr": 0.02})
    assert (spec.optimizer.weight_decay, spec.optimizer.lr) == (0.5, 0.02)


@pytest.mark.parametrize(
    ("content", "edits", "expected"),
    [
        ({"optimizer.lr": LR}, {}, {"optimizer.lr": 0.001}),
        ({"optimizer.lr": LR}, {"optimizer": {"lr": 0.5}}, None),
        ({"train.epochs": {"low": 1, "high": 5, "step": 2}}, {}, {"train.epochs": 3}),
        ({"train.epochs": {"low": 2, "high": 6, "step": 2}}, {}, None),
        ({"balance": {"choices": [{"kind": "fixed"}]}}, {}, {"balance": '{"kind": "fixed"}'}),
        ({"balance": {"choices": [{"kind": "running_mean"}]}}, {}, None),
    ],
)
def test_the_values_of_the_spec_as_it_is(
    tmp_path: Path, content: Any, edits: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    """Defaults too; None if one lies outside the space."""
    assert space(tmp_path, content, edits).of_the_spec() == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1, column 2: found the end of the line; this is not JSON"),
        ({}, 'found {}; a space is {"optimizer.lr"'),
        ({"optimizer.lrr": LR}, "optimizer.lrr = 0.0001: $.optimizer.lrr: found"),
        ({"optimizer.lr": LR | {"high": 2}}, "optimizer.lr = 2: $.optimizer.lr: found 2; must be"),
        ({"train.epochs": {"low": 0.5, "high": 4}}, "train.epochs = 0.5: $.train.epochs: found"),
        ({"tasks[9].outputs": {"low": 1, "high": 2}}, "tasks[9].outputs: found no such place"),
        ({"tasks[up].outputs": {"low": 1, "high": 2}}, 'tasks[up].outputs: found "up"; there are'),
        ({"name.x": {"low": 1, "high": 2}}, "name.x: found a value that is not searched"),
        ({"seed": {"low": 1, "high": 2}}, "seed: found a value that is not searched; the best of"),
        ({"label": {"choices": ["a", "b"]}}, "label: found a value that is not searched; it says"),
        ({"extends": {"choices": ["a"]}}, "extends: found a value that is not searched; a trial"),
        (
            {"optimizer.lr": LR, "$.optimizer.lr": LR},
            "$.optimizer.lr: found a path that comes too late; it would undo what optimizer.lr",
        ),
        (
            {"optimizer.lr": LR, "optimizer": {"choices": [{"lr": 0.1}]}},
            "optimizer: found a path that comes too late; it would undo what optimizer.lr sets",
        ),
        ({"a b": {"low": 1, "high": 2}}, 'a b: found " b"; a path is keys and indexes'),
        ({"": {"low": 1, "high": 2}}, '"": found no key'),
        ({"optimizer.lr": 3}, 'optimizer.lr: found 3; each value has {"low"'),
        ({"optimizer.lr": {"low": 0.1}}, "optimizer.lr.high: found nothing; field required"),
        ({"optimizer.lr": {"low": 0.2, "high": 0.1}}, "optimizer.lr: found"),
        ({"optimizer.lr": LR | {"step": 0.1}}, "optimizer.lr: found"),
        ({"optimizer.lr": LR | {"max": 0.1}}, "optimizer.lr.max: found 0.1; a range has"),
        ({"optimizer.lr": {"low": 0, "high": 0.1, "log": True}}, "optimizer.lr: found"),
        (
            {"tasks[2].loss.delta": {"low": 0.5, "high": 1.2, "step": 0.5}},
            "tasks[2].loss.delta: found",
        ),
        (
            {"train.epochs": {"low": 1, "high": 2, "step": 0.5}},
            "train.epochs.step: found 0.5; the spec takes whole numbers",
        ),
        ({"train.batch_size": {"choices": []}}, "train.batch_size.choices: found []"),
        ({"train.batch_size": {"choices": [8, "8"]}}, "train.batch_size: found"),
        ({"balance.kind": {"choices": ["fixed", "fixd"]}}, "balance.kind = "),
    ],
)
def test_what_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    """Before any trial, in a line that names the file and what the user wrote there."""
    with pytest.raises(InputError) as caught:
        space(tmp_path, content)
    fault = str(caught.value.faults[0])
    assert fault.startswith(str(tmp_path / "space.json"))
    assert message in fault
    assert "\n" not in fault


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data.validation": {"low": 0.1, "high": 0.3}}, "data.validation = 0.1: found another"),
        ({"data.test": {"choices": [None, 0.1]}}, "data.test = 0.1: found another data.test than"),
        ({"data.split": {"choices": ["tail", "random"]}}, 'data.split = "random": found another'),
        ({"data.seed": {"low": 1, "high": 9}}, "data.seed = 1: found another data.seed than the"),
        ({"data": {"choices": [SMALL["data"] | {"validation": 0.3}]}}, "found another data.valid"),
        ({"tasks[down].name": {"choices": ["on"]}}, 'name = "on": found another tasks[2].name'),
        ({"tasks[down].target": {"choices": ["a"]}}, 'target = "a": found another tasks[2].target'),
        ({"tasks[1]": {"choices": [SMALL["tasks"][0] | {"name": "x"}]}}, "found another tasks[1]"),
        ({"tasks": {"choices": [SMALL["tasks"][:2]]}}, "found another number of tasks than the"),
    ],
)
def test_what_trials_are_compared_on(tmp_path: Path, content: Any, message: str) -> None:
    """No path sets it, and no section that holds it."""
    with pytest.raises(InputError) as caught:
        space(tmp_path, content)
    fault = str(caught.value.faults[0])
    assert message in fault
    assert "the same held-out samples and the same tasks; remove it" in fault


def test_what_else_a_section_holds(tmp_path: Path) -> None:
    """Is searched: other fields of data and tasks."""
    data = [SMALL["data"], SMALL["data"] | {"scale": "standardize"}]
    made = space(tmp_path, {"data": {"choices": data}, "tasks[0].loss.smoothing": LR})
    assert [each.name for each in made.dimensions] == ["data", "tasks[0].loss.smoothing"]


class TestObjective:
    @pytest.mark.parametrize(
        ("how", "names", "values"),
        [
            (None, [f"validation skill of {t}" for t in ("kind", "level", "down", "pair")], None),
            ("mean", ["mean validation skill"], [0.25]),
            ("min", ["min validation skill"], [0.1]),
            ("down", ["validation skill of down"], [0.3]),
        ],
    )
    def test_values(
        self, tmp_path: Path, how: str | None, names: list[str], values: list[float] | None
    ) -> None:
        """All tasks' skills, their mean or least one, or one task's."""
        objective = Objective.of(how, read_spec(write(tmp_path)))
        assert objective.names == names
        skills = {"kind": 0.1, "level": 0.2, "down": 0.3, "pair": 0.4}
        assert objective.values(skills) == pytest.approx(values or list(skills.values()))

    def test_a_skill_that_is_missing(self, tmp_path: Path) -> None:
        """Matters only where it is needed."""
        spec = read_spec(write(tmp_path))
        skills = {"kind": None, "level": 0.2, "down": 0.3, "pair": float("nan")}
        assert Objective.of("mean", spec).missing(skills) == ["kind", "pair"]
        assert Objective.of("down", spec).missing(skills) == []

    def test_an_unknown_one(self, tmp_path: Path) -> None:
        """A line that lists what there is."""
        with pytest.raises(InputError, match="mean, min or a task: kind, level, down, pair"):
            Objective.of("median", read_spec(write(tmp_path)))
