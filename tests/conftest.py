"""Fixtures that several rooms share: an S3 server, a store on it or in a directory, real runs."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from job.store import Store, open_store
from tests.runpod.process import supervisor
from tests.support import runs
from tests.support.faulty_proxy import Proxy, proxied
from tests.support.light_trainer import container
from tests.support.s3_server import BUCKET, Server, shared_seaweed
from tests.support.simulated_user import Renting, renting
from tests.support.warm_process import Nursery

# The same examples every time: a verdict depends on the code alone.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")
# A shell's background jobs ignore Ctrl-C, and so would what they start; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture
def proxy(s3_server: Server, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in front of the S3 server, which the environment leads to from now on."""
    with proxied(s3_server) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


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


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Where the processes of all tests come from."""
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


@pytest.fixture
def nursery(warm: Nursery) -> Iterator[Nursery]:
    """Starts processes, and ends those that this test has left."""
    yield warm
    warm.end_children()


@pytest.fixture
def user(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    s3_url: str,
    nursery: Nursery,
) -> Iterator[Renting]:
    """A user with an account at a simulated RunPod of this test alone.

    Its pods run the real supervisor over a trainer without torch; marked `trains`, over the real.
    """
    start = supervisor if request.node.get_closest_marker("trains") else container
    with renting(tmp_path, s3_url, nursery, start) as made:
        yield made


@pytest.fixture(scope="session")
def undisturbed(warm: Nursery, tmp_path_factory: pytest.TempPathFactory) -> runs.Undisturbed:
    """A run to compare others with."""
    return runs.undisturbed(warm, tmp_path_factory.mktemp("undisturbed"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the rates that tests have measured."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "rate":
                terminalreporter.write_line(f"{report.nodeid}: {value}")
