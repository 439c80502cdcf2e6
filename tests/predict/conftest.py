"""Finished runs that the tests of this folder predict with."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest

from tests.support.finished import finish
from tests.support.people import PEOPLE, people
from tests.support.tiny_job import write


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small job and its finished run."""
    folder = tmp_path_factory.mktemp("small")
    finish(write(folder, {"checkpoint": {"best_of": "level"}}))
    return folder


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job on a table and its finished run."""
    folder = tmp_path_factory.mktemp("people")
    pa.csv.write_csv(pa.table(people()), folder / "people.csv")
    (folder / "people.json").write_text(json.dumps(PEOPLE))
    finish(folder / "people.json")
    return folder
