"""Fixtures that several rooms share: a real S3 server, and a store on it or in a directory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from job.store import Store, open_store
from tests.seaweed import BUCKET, Server, shared_seaweed


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One SeaweedFS for all workers, started by the first test that asks for it."""
    base = tmp_path_factory.getbasetemp()
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    with shared_seaweed((base.parent if parallel else base) / "seaweed") as server:
        yield server


@pytest.fixture
def s3_url(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of this test alone on the S3 server, which the environment leads to."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["directory", "s3"])
def store_url(request: pytest.FixtureRequest) -> str:
    """An empty store of either kind."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3_url"))
    return str(request.getfixturevalue("tmp_path") / "store")


@pytest.fixture
def store(store_url: str) -> Store:
    """An empty store of either kind, open."""
    return open_store(store_url)
