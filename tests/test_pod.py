"""In a pod the supervisor ends the pod, and never itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, environment
from tests.nursery import until
from tests.small import write
from tests.stub_api import HANG, Asked, stub_api, wait_for
from tests.supervised import Life, alive

KEY = "pod-key-that-nobody-may-see"
DELETE = Asked("DELETE", "/v2/pods/pod-1", f"Bearer {KEY}", "")
STOP = Asked("POST", "/v2/pods/pod-1/action", f"Bearer {KEY}", '{"action":"stop"}')


def in_pod(port: int, **more: str) -> dict[str, str]:
    """What RunPod puts into a container's environment, and where its API is instead."""
    return {
        "RUNPOD_POD_ID": "pod-1",
        "RUNPOD_API_KEY": KEY,
        "RUNPOD_API_URL": f"http://127.0.0.1:{port}/v2",
        **more,
    }


def assert_discreet(life: Life) -> None:
    """It lives, and has not told its key."""
    assert life.process.poll() is None
    assert KEY not in life.out + life.err


@pytest.mark.parametrize("refused", [500, 403, 401], ids=str)
def test_it_asks_until_it_is_no_more(tmp_path: Path, refused: int) -> None:
    """A delete that is refused is followed by a stop; both are tried again until one is heard, and
    then it still does not exit, for an exit is a restart."""
    with stub_api([refused, refused, 204]) as api:
        spec, settings = write(tmp_path), in_pod(api.port)
        with alive(tmp_path / "1", spec, str(tmp_path / "store"), **settings) as life:
            assert wait_for(api, 3, 60) == [DELETE, STOP, DELETE]
            until(lambda: "has been told to end" in life.err, 20, lambda: life.err)
            assert_discreet(life)
        store = tmp_path / "store/small/r"
        assert (store / "result.json").exists(), "the end is stored before the pod is ended"


@pytest.mark.slow
def test_an_api_that_says_nothing(tmp_path: Path) -> None:
    """No answer is no reason to give up, and neither is no server."""
    with stub_api([HANG, 204]) as api:
        settings = in_pod(api.port, PYTHONPATH=f"{quick(tmp_path)}:{ROOT}")
        spec = write(tmp_path)
        with alive(tmp_path / "1", spec, str(tmp_path / "store"), **settings) as life:
            assert wait_for(api, 2, 60) == [DELETE, STOP]
            assert_discreet(life)
            until(lambda: "ReadTimeout" in life.err, 20, lambda: life.err)
    with alive(tmp_path / "2", spec, str(tmp_path / "store"), **in_pod(1)) as life:
        until(lambda: life.err.count("ConnectError") >= 2, say=lambda: life.err)
        assert_discreet(life)


def quick(folder: Path) -> Path:
    """A folder for PYTHONPATH in which the supervisor waits 1 s for an answer."""
    (folder / "sitecustomize.py").write_text("import job.pod\njob.pod.TIMEOUT = 1.0\n")
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "{{ RUNPOD_SECRET_x }}"}, "did not fill in the secret"),
        ({"EVENGRAD_STORE": "s3://no-such-place"}, "no-such-place"),
        ({"EVENGRAD_SPEC": "/nowhere.json"}, "/nowhere.json"),
    ],
    ids=["secret", "store", "spec"],
)
def test_what_cannot_start_ends_the_pod(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    """A container that cannot train does not bill on: it says why, and ends its pod."""
    settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", **settings}
    with stub_api([204]) as api:
        life_settings = in_pod(api.port, **settings)
        spec = write(tmp_path)
        with alive(tmp_path / "1", spec, str(tmp_path / "store"), **life_settings) as life:
            assert wait_for(api, 1, 60) == [DELETE]
            until(lambda: said in life.err, 20, lambda: life.err)
            assert_discreet(life)


def test_a_pod_goes_on_under_its_own_name(tmp_path: Path) -> None:
    """Without RUN_ID the run bears the pod's id, so that a container started again goes on."""
    with stub_api([204]) as api:
        spec, settings = write(tmp_path), in_pod(api.port, RUN_ID="")
        with alive(tmp_path / "1", spec, str(tmp_path / "store"), **settings):
            wait_for(api, 1, 60)
    assert (tmp_path / "store/small/pod-1/result.json").exists()


@pytest.mark.slow
def test_a_full_disk_does_not_end_it(tmp_path: Path) -> None:
    """A log that cannot be written is no reason to exit, and so to be started again."""
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
            assert wait_for(api, 2, 60) == [DELETE, STOP]
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
    assert (tmp_path / "store/small/pod-1/result.json").exists()
