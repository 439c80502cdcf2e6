"""README, the schema file, the specs and the Makefile say what the code says."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from job.events import EVENT, Epoch, EpochTask, Event, Step, StepTask
from job.read_spec import schema
from job.spec import Balance
from job.version import VERSION
from tests.readme import README, ROOT, renewed

SCHEMA = ROOT / "docker" / "spec.schema.json"
SPECS = [ROOT / "spec.json", *sorted((ROOT / "docker").glob("*.json"))]
SPECS.remove(SCHEMA)
TARGETS = [
    "install",
    "smoke",
    "test",
    "test-all",
    "test-container",
    "image",
    "bench",
    "pictures",
    "schema",
    "clean",
]


@pytest.fixture(scope="module")
def readme() -> str:
    """README's text."""
    return README.read_text("utf-8")


def kinds(union: Any, key: str) -> list[str]:
    """The discriminators of an annotated union of records."""
    return [part.model_fields[key].annotation.__args__[0] for part in get_args(get_args(union)[0])]


def test_readme_is_current(readme: str) -> None:
    """The table of the spec's fields and the map of files are what `make schema` would write."""
    assert renewed(readme) == readme, "run `make schema`"


def test_schema_file_is_current() -> None:
    """docker/spec.schema.json is what `python -m job schema` prints."""
    assert json.loads(SCHEMA.read_text("utf-8")) == schema(), "run `make schema`"


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_specs_name_the_schema(path: Path) -> None:
    """The `$schema` of every shipped spec leads, from the spec's folder, to the schema file."""
    named = json.loads(path.read_text("utf-8"))["$schema"]
    assert (path.parent / named).samefile(SCHEMA)


def test_readme_tells_balancers_and_events(readme: str) -> None:
    """Every balancer and event, and every field of a step and an epoch, is named in README."""
    names = [*kinds(Balance, "kind"), *kinds(Event, "event")]
    for record in (Step, StepTask, Epoch, EpochTask):
        names += record.model_fields
    assert [name for name in names if f"`{name}`" not in readme] == []


def test_readme_shows_real_events(readme: str) -> None:
    """The example lines in README are events of this version."""
    lines = [json.loads(line) for line in readme.splitlines() if line.startswith('{"ts"')]
    assert {line["event"] for line in lines} == {"step", "epoch"}
    for line in lines:
        for envelope in ("ts", "schema", "run_id", "seq"):
            del line[envelope]
        EVENT.validate_python(line, strict=True)


def test_readme_tells_dependencies(readme: str) -> None:
    """Every package that pyproject.toml asks for is named in README."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(each for extra in extras.values() for each in extra)]
    names = [re.split(r"[\[>=]", requirement)[0] for requirement in asked]
    table = readme.partition("## What it depends on")[2].partition("\n## ")[0]
    assert [name for name in names if not re.search(rf"[ |]{name}[ ,]", table)] == []


def test_make_targets(readme: str) -> None:
    """`make` lists every target, make knows how to build each, and README names the first two."""
    make = ["make", "--no-print-directory"]  # which it prints when make runs these tests
    told = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [line.split()[1] for line in told.splitlines()] == ["help", *TARGETS]
    subprocess.run([*make, "--dry-run", *TARGETS], cwd=ROOT, check=True, capture_output=True)
    assert "make smoke" in readme
    assert "make test" in readme


def test_one_version_everywhere() -> None:
    """Makefile and Dockerfile install one torch, and the image's labels tell it and the code's
    version."""
    docker, make = (ROOT / name for name in ("Dockerfile", "Makefile"))
    found = re.findall(r"torch={2,3}([0-9.]+)", docker.read_text() + make.read_text())
    found += re.findall(r"evengrad.torch=([0-9.]+)", docker.read_text())
    assert len(found) >= 4
    assert len(set(found)) == 1
    labels = re.findall(r"image.version=([0-9.]+)", docker.read_text())
    assert set(labels) == {VERSION}


def test_readmes_examples_import_what_is_installed(readme: str) -> None:
    """What `python -c` in README imports is a dependency of ours."""
    asked = re.findall(r"python -c 'import (\w+)", readme)
    assert asked
    table = readme.partition("## What it depends on")[2].partition("\n## ")[0]
    assert [name for name in asked if name not in table] == []
