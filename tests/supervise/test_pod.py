"""In a pod the supervisor deletes the pod, and never exits itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from job.record.history import read_document
from job.record.run_index import RunIndex, RunIndexStore
from job.store.directory import DirectoryStore
from job.supervise.supervisor import End, record_refusal
from tests.runpod.stub_api import HANG, Asked, stub_api, wait_for
from tests.support.command import ROOT, environment
from tests.support.faulty_proxy import Proxy, Request
from tests.support.supervised import Container, alive, hold
from tests.support.tiny_job import write
from tests.support.warm_process import SECONDS, until

KEY = "pod-key-that-nobody-may-see"
DELETE = Asked("DELETE", "/v2/pods/pod-1", f"Bearer {KEY}", "")
STOP = Asked("POST", "/v2/pods/pod-1/action", f"Bearer {KEY}", '{"action":"stop"}')


def in_pod(port: int, **more: str) -> dict[str, str]:
    """RunPod's variables of a container, with the address of a stand-in for its API."""
    return {
        "RUNPOD_POD_ID": "pod-1",
        "RUNPOD_API_KEY": KEY,
        "RUNPOD_API_URL": f"http://127.0.0.1:{port}/v2",
        **more,
    }


def assert_discreet(container: Container) -> None:
    """It still runs, and has not logged its key."""
    assert container.process.poll() is None
    assert KEY not in container.out + container.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "refused", [500, *(pytest.param(c, marks=pytest.mark.slow) for c in (403, 401))], ids=str
)
def test_it_asks_until_it_is_no_more(tmp_path: Path, refused: int) -> None:
    """A delete that is refused is followed by a stop; both are tried again until one is accepted.
    Even then it does not exit, because an exit is a restart; its log ends with the run's end."""
    with stub_api([refused, refused, 204]) as api:
        spec, settings = write(tmp_path), in_pod(api.port)
        with alive(tmp_path / "1", spec, str(tmp_path / "store"), **settings) as container:
            assert wait_for(api, 3, SECONDS) == [DELETE, STOP, DELETE]
            end = "supervisor: exit 0: done, and all gates passed\n"
            until(
                lambda: accepted(container) and container.err.endswith(end),
                say=lambda: container.err,
            )
            assert_discreet(container)
        store = tmp_path / "store/small/r"
        assert (store / "result.json").exists(), "the end is stored before the pod is ended"


@pytest.mark.slow
def test_an_api_that_says_nothing(tmp_path: Path) -> None:
    """It goes on without an answer, and without a server."""
    with stub_api([HANG, 204]) as api:
        settings = in_pod(api.port, PYTHONPATH=f"{quick(tmp_path)}:{ROOT}")
        spec = write(tmp_path)
        with alive(tmp_path / "1", spec, str(tmp_path / "store"), **settings) as container:
            assert wait_for(api, 2, SECONDS) == [DELETE, STOP]
            assert_discreet(container)
            until(lambda: "ReadTimeout" in container.err, say=lambda: container.err)
    with alive(tmp_path / "2", spec, str(tmp_path / "store"), **in_pod(1)) as container:
        until(lambda: container.err.count("ConnectError") >= 2, say=lambda: container.err)
        assert_discreet(container)


def quick(folder: Path) -> Path:
    """A folder for PYTHONPATH in which the supervisor waits 1 s for an answer."""
    (folder / "sitecustomize.py").write_text(
        "import job.supervise.pod\njob.supervise.pod.TIMEOUT = 1.0\n"
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "{{ RUNPOD_SECRET_x }}"}, "exit 1: AWS_SECRET_ACCESS_KEY: "),
        pytest.param({"EVENGRAD_STORE": "s3://no-such-place"}, "exit 1: ", marks=pytest.mark.slow),
        pytest.param(
            {"EVENGRAD_SPEC": "/nowhere.json"}, "exit 2: /nowhere.json: ", marks=pytest.mark.slow
        ),
        ({"EVENGRAD_SPEC_HASH": "another"}, "exit 2: EVENGRAD_SPEC_HASH: submitted was another"),
    ],
    ids=["secret", "store", "spec", "other spec"],
)
def test_what_cannot_start_ends_the_pod(
    tmp_path: Path, settings: dict[str, str], cause: str
) -> None:
    """A container that cannot train does not bill on: it deletes its pod, and the last line of its
    log is why, however often it asks."""
    settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", **settings}
    with stub_api([500, 500, 204]) as api:
        life_settings = in_pod(api.port, **settings)
        spec = write(tmp_path)
        with alive(tmp_path / "1", spec, str(tmp_path / "store"), **life_settings) as container:
            assert wait_for(api, 3, SECONDS) == [DELETE, STOP, DELETE]
            until(
                lambda: accepted(container) and ends_with(container, cause),
                say=lambda: container.err,
            )
            assert_discreet(container)


def accepted(container: Container) -> bool:
    """True once the API has accepted the pod's end."""
    return "RunPod has accepted the end of pod pod-1" in container.err


def ends_with(container: Container, cause: str) -> bool:
    """True if the last line of the log is a cause that begins so."""
    return container.err.endswith("\n") and f"supervisor: {cause}" in container.err.splitlines()[-1]


SUBMITTED = {"EVENGRAD_NAME": "small"}


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"OTHER": "{{ RUNPOD_SECRET_x }}"}, 1), ({"EVENGRAD_SPEC_HASH": "another"}, 2)],
    ids=["secret", "other spec"],
)
def test_the_status_keeps_the_cause(tmp_path: Path, settings: dict[str, str], code: int) -> None:
    """Why a submitted run cannot begin is in its status, with the pod that refused."""
    with stub_api([204]) as api:
        spec, more = write(tmp_path), in_pod(api.port, RUN_ID="r", **SUBMITTED, **settings)
        with alive(tmp_path / "1", spec, str(tmp_path / "store"), **more) as container:
            until(lambda: accepted(container), say=lambda: container.err)
    status = read_document(DirectoryStore(tmp_path / "store"), "small/r", "status.json")
    assert status is not None
    assert (status["phase"], status["exit_code"], status["pod"]) == ("failed", code, "pod-1")
    assert status["error"].startswith(next(iter(settings)))


def test_the_cause_is_stored_as_the_run_is(tmp_path: Path, s3_url: str, proxy: Proxy) -> None:
    """Encrypted as the spec says: a bucket may take nothing else."""
    asked: list[str | None] = []

    def note_writes(request: Request) -> None:
        if request.writes:
            asked.append(request.headers.get("x-amz-server-side-encryption"))

    proxy.rule = note_writes
    spec = write(tmp_path, {"checkpoint.encryption": {"kind": "sse-s3"}})
    settings = {"EVENGRAD_SPEC": str(spec), "EVENGRAD_STORE": s3_url, "RUN_ID": "r", **SUBMITTED}
    record_refusal(settings, [], End(1, error="there is no such secret"))
    assert set(asked) == {"AES256"}


def test_a_run_of_another_spec_keeps_its_status(tmp_path: Path) -> None:
    """A container that was given the wrong run's id changes nothing of that run."""
    store = DirectoryStore(tmp_path / "store")
    RunIndexStore(store, "small/r", True).write(RunIndex(epoch=1, spec_hash="its own"))
    with stub_api([204]) as api:
        more = in_pod(api.port, RUN_ID="r", EVENGRAD_SPEC_HASH="another", **SUBMITTED)
        with alive(tmp_path / "1", write(tmp_path), str(tmp_path / "store"), **more) as container:
            until(lambda: accepted(container), say=lambda: container.err)
    assert [entry.key for entry in store.list("small/r/")] == ["small/r/latest.json"]


def test_only_the_supervisor_has_the_key(tmp_path: Path) -> None:
    """The trainer's environment lacks the key that deletes the pod."""
    (tmp_path / "1").mkdir()
    held = hold(tmp_path / "1", 3)
    with stub_api([204]) as api:
        spec, settings = write(tmp_path), in_pod(api.port)
        with alive(tmp_path / "1", spec, str(tmp_path / "store"), **settings) as container:
            held.until_reached()
            of_trainer = Path(f"/proc/{container.trainer()}/environ").read_bytes()
            assert KEY.encode() not in of_trainer
            assert b"RUNPOD_POD_ID=pod-1" in of_trainer
            assert KEY.encode() in Path(f"/proc/{container.process.pid}/environ").read_bytes()


@pytest.mark.slow
def test_a_pod_goes_on_under_its_own_name(tmp_path: Path) -> None:
    """Without RUN_ID the run bears the pod's id, so that a container started again goes on."""
    with stub_api([204]) as api:
        spec, settings = write(tmp_path), in_pod(api.port, RUN_ID="")
        with alive(tmp_path / "1", spec, str(tmp_path / "store"), **settings):
            wait_for(api, 1, SECONDS)
    assert (tmp_path / "store/small/pod-1/result.json").exists()


@pytest.mark.slow
def test_a_full_disk_does_not_end_it(tmp_path: Path) -> None:
    """It does not exit, and so is not started again, when its log cannot be written."""
    full = os.open("/dev/full", os.O_WRONLY)
    with stub_api([500, 204]) as api:
        spec, settings = write(tmp_path), in_pod(api.port)
        process = subprocess.Popen(
            [sys.executable, "-m", "job.supervise"],
            cwd=tmp_path,
            env=environment(
                EVENGRAD_SPEC=str(spec), EVENGRAD_STORE=str(tmp_path / "store"), **settings
            ),
            stdout=full,
            stderr=full,
        )
        os.close(full)
        try:
            assert wait_for(api, 2, SECONDS) == [DELETE, STOP]
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
    assert (tmp_path / "store/small/pod-1/result.json").exists()
