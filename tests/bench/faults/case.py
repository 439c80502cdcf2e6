"""A real fault, rebuilt: a JSON file of `development/` or `held_out/`, as what a command can read.

A file has these keys; patches are JSON merge patches (RFC 7396) of the problem's spec, in which
`tasks` may be an object of patches by the task's name.

sources: where the fault was reported. story: what was wrong, and what mended it. faults: its kinds,
names of tests.bench.faults.truths. problem: a name of tests.bench.faults.problems. both: a patch of
the faulty spec and of its repaired twin; faulty, repaired: of one alone. data, damage: changes of
the arrays by functions of tests.bench.faults.damage, with arguments; of both, or of the faulty one.
flatters: true if the fault raises the measured skill, as a leak does.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.bench.faults.damage import DAMAGES
from tests.bench.faults.problems import DATA, PROBLEMS, Json, Problem

HERE = Path(__file__).parent
NETWORKS = HERE / "networks"
Half = Literal["development", "held_out"]
HALVES: tuple[Half, ...] = ("development", "held_out")
Variant = Literal["faulty", "repaired"]
Changes = list[tuple[str, dict[str, Any]]]


def half_of(name: str) -> Half:
    """The half of a case: development if the SHA-256 of its name is even, else held out."""
    return HALVES[int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2]


@dataclass(frozen=True)
class Case:
    """A fault with its repaired twin, and what is true of it."""

    name: str
    half: Half
    sources: list[str]
    story: str
    faults: list[str]
    problem: str
    both: Json = field(default_factory=dict)
    faulty: Json = field(default_factory=dict)
    repaired: Json = field(default_factory=dict)
    data: Changes = field(default_factory=list)
    damage: Changes = field(default_factory=list)
    flatters: bool = False

    def variant(self, which: Variant) -> Problem:
        """The arrays and the spec of the faulty problem, or of its twin."""
        arrays, spec = PROBLEMS[self.problem]()
        for name, arguments in self.data + (self.damage if which == "faulty" else []):
            DAMAGES[name](arrays, **arguments)
        spec = merged(merged(spec, self.both), self.faulty if which == "faulty" else self.repaired)
        return Problem(arrays, {**spec, "seed": 0})


def cases(*halves: Half) -> list[Case]:
    """All cases of the halves, by name."""
    return [case for half in halves or HALVES for case in _of(half)]


def _of(half: Half) -> Iterator[Case]:
    for path in sorted((HERE / half).glob("*.json")):
        yield read(path, half)


def read(path: Path, half: Half) -> Case:
    """The case of a file."""
    return Case(name=path.stem, half=half, **json.loads(path.read_text("utf-8")))


def merged(spec: Json, patch: Json) -> Json:
    """The spec with a merge patch; the patch's tasks are patches by name."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(spec) if isinstance(spec, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif key == "tasks" and isinstance(value, dict):
            result[key] = [merged(task, value.get(task["name"], {})) for task in result[key]]
        else:
            result[key] = merged(result.get(key), value)
    return result


def write(problem: Problem, folder: Path, name: str) -> Path:
    """Write `NAME.json` into an own folder of arrays and networks; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / DATA, allow_pickle=False, **problem.arrays)
    if "file" in problem.spec["model"]:
        shutil.copy(NETWORKS / problem.spec["model"]["file"], folder)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(problem.spec, indent=2) + "\n", "utf-8")
    return path
