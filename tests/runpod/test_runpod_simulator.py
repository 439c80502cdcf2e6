"""The simulated RunPod runs, restarts, bills and ends its pods as the real one should."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.runpod.client import IMAGE, asking, made, names, shell
from tests.runpod.container import Timing
from tests.runpod.pod import SimulatedPod
from tests.runpod.process import of_pods
from tests.runpod.simulator import Simulator, simulated
from tests.support.command import ROOT, environment
from tests.support.tiny_job import write
from tests.support.warm_process import until

SLEEP = "exec sleep 600"
QUICK = Timing(provisioning=0.0, starting=0.0, restart=0.0, grace=0.3, keep_alive=0.1)


def wait_for_line(pod: SimulatedPod, text: str) -> None:
    """Wait until the container has printed something."""
    until(lambda: text in pod.log.text("container"), say=lambda: f"{pod.log.lines}")


# --- with the real supervisor ---------------------------------------------------------------------


def test_a_pod_trains_and_deletes_itself(tmp_path: Path) -> None:
    """A pod runs the spec of its image to the end, stores the run, ends itself with its own key, is
    gone for everybody, and has billed its life by the clock of the simulator."""
    spec, store = write(tmp_path / "image"), tmp_path / "store"
    with simulated(tmp_path, speed=60) as runpod, asking(runpod) as client:
        runpod.images[IMAGE] = spec
        pod = made(runpod, client, env={"EVENGRAD_STORE": str(store), "RUN_ID": "r"})
        assert runpod.billing() == [pod]
        until(lambda: pod.gone, say=lambda: pod.log.text("container"))
        assert json.loads((store / "small/r/result.json").read_text())["reason"] == "succeeded"
        assert client.get(f"pods/{pod.id}").status_code == 404
        assert names(client) == []
        assert [(a.method, a.key, a.status) for a in runpod.asked[:2]] == [
            ("POST", "account", 201),
            ("DELETE", "pod", 204),
        ]
        billed = pod.billed_seconds
        assert runpod.billing() == []
        ((began, ended),) = pod.lives
        created, deleted = (asked.time for asked in runpod.asked[:2])
        assert created < began < ended
        assert deleted - began <= billed <= runpod.clock() - created
        assert pod.billed_usd == pytest.approx(billed / 3600 * 0.39)
        time.sleep(0.01)
        assert pod.billed_seconds == billed
    assert of_pods(pod.id) == []
    assert pod.boots == 1


@pytest.mark.slow
def test_a_host_that_dies_in_mid_training(tmp_path: Path) -> None:
    """Supervisor and trainer are gone at once, though each has a session of its own; the status
    does not tell, and it bills on until it is deleted."""
    spec = write(tmp_path / "image", {"train.epochs": 100_000})
    with simulated(tmp_path) as runpod, asking(runpod) as client:
        runpod.images[IMAGE] = spec
        pod = made(runpod, client, env={"EVENGRAD_STORE": str(tmp_path / "store")})
        wait_for_line(pod, '"event":"step"')
        until(lambda: len(of_pods(pod.id)) == 2)
        runpod.kill_host(pod.id, "silent")
        assert of_pods(pod.id) == []
        ((_, ended),), billed = pod.lives, pod.billed_seconds
        assert ended < runpod.clock()
        assert client.get(f"pods/{pod.id}").json()["status"] == "RUNNING"
        assert runpod.billing() == [pod]
        assert client.delete(f"pods/{pod.id}").status_code == 204
        assert runpod.billing() == []
        assert pod.billed_seconds > billed


# --- processes ------------------------------------------------------------------------------------


def test_an_exit_is_a_restart_on_an_empty_disk(tmp_path: Path) -> None:
    """A process that exits, with 0 too, is started again: status and billing go on, its disk is
    wiped, its output is kept."""
    script = 'echo "finds $(ls $TMPDIR | wc -l)"; touch $TMPDIR/left'
    with simulated(tmp_path, start=shell(script), timing=QUICK) as runpod, asking(runpod) as client:
        runpod.images[IMAGE] = tmp_path
        pod = made(runpod, client)
        until(lambda: pod.boots >= 3)
        assert pod.status == "RUNNING"
        assert runpod.billing() == [pod]
        for (_, end), (start, _) in zip(pod.containers, pod.containers[1:], strict=False):
            assert end <= start
    lines = pod.log.text("container").splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"finds 0"}


def test_what_a_killed_process_leaves_is_killed(tmp_path: Path) -> None:
    """The end of PID 1 ends its orphans, sessions of their own or not, before the next boot; the
    lives of its children are known."""
    script = "setsid sleep 600 & echo begun; wait"
    with simulated(tmp_path, start=shell(script), timing=QUICK) as runpod, asking(runpod) as client:
        runpod.images[IMAGE] = tmp_path
        pod = made(runpod, client)
        until(lambda: len(pod.lives) == 1)
        until(lambda: len(of_pods(pod.id)) == 2)  # not while one is between fork and exec
        before, first = set(of_pods(pod.id)), pod.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: len(pod.lives) == 2)
        assert not before & set(of_pods(pod.id))
        assert pod.lives[0].end <= pod.containers[0].end <= pod.lives[1].start
        assert pod.lives[1].end == math.inf
    assert of_pods(pod.id) == []
    assert pod.lives[1].end < math.inf


def test_delete_gives_a_grace(tmp_path: Path) -> None:
    """A deleted pod bills no more at once; its process hears SIGTERM, and what does not heed that
    is killed when the grace is over."""
    script = "trap 'echo heard' TERM; echo ready; while :; do sleep 0.01; done"
    timing = Timing(grace=600.0)
    with (
        simulated(tmp_path, start=shell(script), timing=timing) as runpod,
        asking(runpod) as client,
    ):
        runpod.images[IMAGE] = tmp_path
        pod = made(runpod, client)
        wait_for_line(pod, "ready")
        assert client.delete(f"pods/{pod.id}").status_code == 204
        assert not pod.bills
        wait_for_line(pod, "heard")
        assert of_pods(pod.id)
        timing.grace = 0.1
        until(lambda: not of_pods(pod.id))
        assert client.delete(f"pods/{pod.id}").status_code == 404
        assert pod.status == "TERMINATED"


def test_nothing_outlives_a_killed_test(tmp_path: Path) -> None:
    """A test that is killed in mid-air leaves no process either."""
    code = f"""
import pathlib, time
from tests.runpod.client import *
folder = pathlib.Path({str(tmp_path)!r})
from tests.runpod.simulator import simulated
with simulated(folder, start=shell("setsid sleep 600 & wait")) as runpod, asking(runpod) as client:
    runpod.images[IMAGE] = folder
    pod = made(runpod, client)
    while not pod.lives:
        time.sleep(0.01)
    print(pod.id, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as test:
        assert test.stdout is not None
        pod_id = test.stdout.readline().strip()
        assert pod_id
        until(lambda: len(of_pods(pod_id)) == 2)
        test.kill()
    until(lambda: of_pods(pod_id) == [])


def test_what_a_container_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variables are the image's, the pod's and RunPod's, none of the test's; secrets that exist
    are filled in, and its own key wins over one that the user set."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the test")
    env = {"A": "{{ RUNPOD_SECRET_a }}", "B": "{{ RUNPOD_SECRET_b }}", "RUNPOD_API_KEY": "mine"}
    start = shell("env; echo done; exec sleep 600")
    with simulated(tmp_path, start=start) as runpod, asking(runpod) as client:
        runpod.images[IMAGE], runpod.secrets["a"] = tmp_path / "spec.json", "secret of a"
        pod = made(runpod, client, env=env)
        wait_for_line(pod, "done")
        lines = pod.log.text("container").splitlines()
        seen = dict(line.split("=", 1) for line in lines if "=" in line)
        assert client.get(f"pods/{pod.id}").json()["env"] == env, "as it was asked for"
    assert "AWS_SECRET_ACCESS_KEY" not in seen
    assert (seen["A"], seen["B"]) == ("secret of a", env["B"])
    assert seen["RUNPOD_API_KEY"] == pod.key
    assert seen["RUNPOD_POD_ID"] == pod.id
    assert seen["EVENGRAD_SPEC"] == str(tmp_path / "spec.json")
    assert seen["RUNPOD_API_URL"] == runpod.url


# --- statuses -------------------------------------------------------------------------------------


def test_statuses_of_a_life(tmp_path: Path) -> None:
    """RUNNING, EXITED after a stop, which costs nothing, RUNNING again; what its status does not
    allow is refused."""
    with simulated(tmp_path, start=shell(SLEEP), timing=QUICK) as runpod, asking(runpod) as client:
        runpod.images[IMAGE] = tmp_path

        def act(action: str) -> int:
            return client.post(f"pods/{pod.id}/action", json={"action": action}).status_code

        def comes(status: str) -> None:
            until(lambda: client.get(f"pods/{pod.id}").json()["status"] == status)

        pod = made(runpod, client)
        comes("RUNNING")
        until(lambda: pod.boots == 1)
        assert act("start") == 409
        assert act("restart") == 200
        until(lambda: pod.boots == 2)
        assert act("stop") == 200
        assert (pod.status, pod.cost) == ("EXITED", 0.0)
        billed = pod.billed_seconds
        assert act("restart") == 409
        assert act("start") == 200
        comes("RUNNING")
        until(lambda: pod.boots == 3)
        assert pod.billed_seconds > billed
        assert act("terminate") == 204
        assert act("stop") == 404


@pytest.mark.parametrize(("how", "status"), [("vanishes", 404), ("exited", 200)])
def test_a_host_that_dies_and_tells(tmp_path: Path, how: str, status: int) -> None:
    """Such a pod bills no more, and is not there or has exited."""
    with simulated(tmp_path, start=shell(SLEEP)) as runpod, asking(runpod) as client:
        runpod.images[IMAGE] = tmp_path
        pod = made(runpod, client)
        until(lambda: pod.pid is not None)
        runpod.kill_host(pod.id, "vanishes" if how == "vanishes" else "exited")
        assert of_pods(pod.id) == []
        assert runpod.billing() == []
        assert client.get(f"pods/{pod.id}").status_code == status
        assert names(client) == (["a"] if status == 200 else [])
        assert status == 404 or pod.status == "EXITED"


def test_an_image_that_does_not_exist(tmp_path: Path) -> None:
    """It is never started, it bills, and only the system's log says why."""
    with simulated(tmp_path, timing=QUICK) as runpod, asking(runpod) as client:
        pod = made(runpod, client, image="nobody/nothing:1")
        until(lambda: "error pulling image" in pod.log.text("system"))
        assert (pod.status, pod.boots) == ("STARTING", 0)
        assert runpod.billing() == [pod]


# --- logs -----------------------------------------------------------------------------------------


def stream(
    runpod: Simulator, pod: SimulatedPod, last: str = "", **query: str | int
) -> tuple[list[str], str]:
    """The container's lines that a stream gives until it ends, and its last event's id."""
    lines: list[str] = []
    headers = {"Last-Event-ID": last} if last else {}
    with asking(runpod) as client:
        params = {"source": "container"} | query
        with client.stream("GET", f"pods/{pod.id}/logs", params=params, headers=headers) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            try:
                for text in answer.iter_lines():
                    if text.startswith("id: "):
                        last = text.removeprefix("id: ")
                    if text.startswith("data: "):
                        lines.append(json.loads(text.removeprefix("data: "))["line"])
                    if text.startswith(":"):  # there is no more for now
                        break
            except httpx.RemoteProtocolError:
                lines.append("cut")
    return lines, last


def test_logs_go_on_where_they_were_cut(tmp_path: Path) -> None:
    """`tail` and `since` choose the lines before; a stream that is cut is resumed by the id of its
    last event, without a gap or a repetition, and by a time with repetitions."""
    start = shell("for n in 1 2 3 4 5; do echo line $n; done; exec sleep 600")
    with simulated(tmp_path, start=start, timing=QUICK) as runpod, asking(runpod) as client:
        runpod.images[IMAGE] = tmp_path
        pod = made(runpod, client)
        wait_for_line(pod, "line 5")
        every = [f"line {n}" for n in range(1, 6)]
        assert stream(runpod, pod)[0] == every
        assert stream(runpod, pod, tail=2)[0] == every[3:]
        assert stream(runpod, pod, tail=0)[0] == []
        runpod.faults.log_cuts = [2, 1]
        first, last = stream(runpod, pod)
        second, last = stream(runpod, pod, last)
        third, last = stream(runpod, pod, last)
        assert (first, second, third) == ([*every[:2], "cut"], [every[2], "cut"], every[3:])
        assert stream(runpod, pod, last)[0] == []
        second_of_it = last.partition("/")[0]
        assert stream(runpod, pod, since=second_of_it)[0][-1] == every[-1]
        assert stream(runpod, pod, since="2020-01-01T00:00:00Z", tail=1)[0] == every
        assert stream(runpod, pod, source="system")[0][0] == f"create container {IMAGE}"
        for wrong in ({"tail": 5001}, {"source": "kitchen"}, {"since": "yesterday"}):
            assert client.get(f"pods/{pod.id}/logs", params=wrong).status_code == 422


def test_a_stream_ends_with_its_pod(tmp_path: Path) -> None:
    """It is live, and ends in order once the pod is deleted and its processes have ended; then
    there is no log."""
    script = "while [ ! -e $TMPDIR/go ]; do sleep 0.01; done; echo told; exec sleep 600"
    patient = Timing(grace=0.0)
    start = shell(script)
    with simulated(tmp_path, start=start, timing=patient) as runpod, asking(runpod) as client:
        runpod.images[IMAGE] = tmp_path
        pod = made(runpod, client)
        path, query = f"pods/{pod.id}/logs", {"source": "container"}
        with asking(runpod) as other, other.stream("GET", path, params=query) as answer:
            until(lambda: pod.boots == 1)
            (tmp_path / pod.id / "disk/go").touch()
            lines = answer.iter_lines()
            assert next(lines).startswith("id: ")
            assert json.loads(next(lines).removeprefix("data: "))["line"] == "told"
            client.delete(f"pods/{pod.id}")
            assert [line for line in lines if line] == []
        assert client.get(path).status_code == 404
