"""Pods that will never train, or that stop: ended at once, and called what they are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.exits import ERROR, JOB_FAILED, NO_GPU
from tests.runpod.faults import Fault, Oddity
from tests.support.simulated_user import L4, RESOURCES, Renting, renting
from tests.support.warm_process import Nursery, until

LOCAL: dict[str, Any] = {"deploy.plan.prepare:REACHABLE": ["s3://", "/"]}
"""A store in a directory: S3 is not what is tested here."""
LONG = {"train.epochs": 100_000}
FULL_DISK = "write /var/lib/docker/overlay2/a: no space left on device"


@pytest.fixture
def user(tmp_path: Path, nursery: Nursery) -> Iterator[Renting]:
    """A user whose store is a directory, and whose start timeout is far longer than any test."""
    with renting(tmp_path, str(tmp_path / "store"), nursery) as made:
        yield made


def bills(user: Renting) -> list[str]:
    """The pods that cost money."""
    return [pod.name for pod in user.runpod.billing()]


def last_attempt(user: Renting) -> dict[str, Any]:
    """The newest entry of the pods record."""
    attempt: dict[str, Any] = user.record["attempts"][-1]
    return attempt


# --- a pod that nobody saw ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_ends_before_its_pod_is_looked_for(user: Renting) -> None:
    """The create's answer is lost, and the pod has come and gone: its end is the submission's."""
    user.runpod.faults.create = [Fault("late", done=True)]
    submitted = user.submit("--json", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    assert json.loads(submitted.out)["state"] == "succeeded"
    assert "run.finished" in user.done("logs", user.run_id, "--json").out
    assert (len(user.pods), bills(user)) == (1, [])
    assert last_attempt(user)["ended"]


@pytest.mark.slow
def test_a_detached_run_that_ends_before_its_pod_is_looked_for(user: Renting) -> None:
    """The same for a command that does not follow: nothing is left to come back to."""
    user.runpod.faults.create = [Fault("late", done=True)]
    submitted = user.submit("--detach", "--json", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    assert json.loads(submitted.out)["state"] == "succeeded"
    assert len(user.pods) == 1


def test_a_pod_that_fails_before_it_is_looked_for(user: Renting) -> None:
    """Its stored reason ends the submission; another pod would fail in the same way."""
    user.variables.write_text(
        "AWS_ACCESS_KEY_ID='{{ RUNPOD_SECRET_nowhere }}'\nAWS_SECRET_ACCESS_KEY='x'\n"
    )
    user.runpod.faults.create = [Fault("late", done=True)]
    submitted = user.submit("--json", **LOCAL)
    assert submitted.wait() == JOB_FAILED, submitted.err
    error = json.loads(submitted.err.splitlines()[-1])
    assert "exit 1: AWS_ACCESS_KEY_ID: RunPod did not fill in the secret" in error["error"]
    assert error["pod_id"] == last_attempt(user)["pod"] == user.pods[0].id
    assert (len(user.pods), bills(user)) == (1, [])


# --- the image ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("error pulling image: manifest for me/it not found: manifest unknown", "push the image"),
        ("error pulling image: UNAUTHORIZED: authentication required", "--registry"),
        ("toomanyrequests: You have reached your pull rate limit.", "limits anonymous pulls"),
    ],
    ids=["manifest unknown", "unauthorized", "toomanyrequests"],
)
def test_an_image_that_no_host_can_pull(user: Renting, line: str, remedy: str) -> None:
    """One pod is enough to learn it: no other candidate is tried, and RunPod's line is quoted."""
    user.runpod.faults.pods = [Oddity(failing_pull=line) for _ in range(4)]
    submitted = user.submit("--json", **LOCAL)
    assert submitted.wait() == ERROR, submitted.err
    error = json.loads(submitted.err.splitlines()[-1])["error"]
    assert f'"{line}"' in error
    assert remedy in error
    assert (len(user.pods), bills(user)) == (1, [])
    assert line in last_attempt(user)["why"]


def test_a_host_without_space(user: Renting) -> None:
    """The next candidate is on another host, and takes the run at once."""
    user.runpod.faults.pods = [Oddity(failing_pull=FULL_DISK)]
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == 0, submitted.err
    assert len(user.pods) == 2
    assert FULL_DISK in user.record["attempts"][0]["why"]


def test_hosts_without_space(user: Renting) -> None:
    """A second host without space says that it is the image: the rest is not tried, and the field
    of the spec is named."""
    user.runpod.faults.pods = [Oddity(failing_pull=FULL_DISK) for _ in range(4)]
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == ERROR, submitted.err
    assert f'"{FULL_DISK}"' in submitted.err.splitlines()[-1]
    assert "resources.disk_gb" in submitted.err.splitlines()[-1]
    assert (len(user.pods), bills(user)) == (2, [])


# --- the container's own reason -------------------------------------------------------------------


def test_the_containers_reason_is_reported(user: Renting) -> None:
    """`exit N: …` is what `submit`, its JSON, record and `status` say; no other pod is tried."""
    user.variables.write_text(
        "AWS_ACCESS_KEY_ID='{{ RUNPOD_SECRET_no.where/at-all }}'\nAWS_SECRET_ACCESS_KEY='x'\n"
    )
    submitted = user.submit("--json", **LOCAL)
    assert submitted.wait() == JOB_FAILED, submitted.err
    error = json.loads(submitted.err.splitlines()[-1])
    reason = "exit 1: AWS_ACCESS_KEY_ID: RunPod did not fill in the secret"
    assert reason in error["error"]
    assert (error["code"], error["pod_id"]) == (JOB_FAILED, user.pods[0].id)
    assert (len(user.pods), bills(user)) == (1, [])
    assert reason in last_attempt(user)["why"]
    status = user.done("status", user.run_id, "--json")
    state = json.loads(status.out)
    assert (status.code, state["state"]) == (JOB_FAILED, "failed")
    assert state["error"].startswith(reason)
    assert state["resume_command"] == f"python -m deploy.submit --resume {user.run_id}"
    assert reason in user.done("status", user.run_id).out


@pytest.mark.slow
def test_a_secret_that_is_there(user: Renting) -> None:
    """A name with every sign that RunPod allows is filled in, and `doctor` finds it."""
    name = "team/s3.key-1_a"
    user.write(resources=RESOURCES | {"secrets": {"AWS_ACCESS_KEY_ID": name}})
    user.variables.write_text("AWS_SECRET_ACCESS_KEY='x'\n")
    user.runpod.secrets[name] = "value"
    looked = json.loads(user.done("doctor", user.spec, "--json").out)["checks"]
    assert [c["ok"] for c in looked if c["name"] == "secrets"] == [True]
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == 0, submitted.err
    assert user.pods[0].env["AWS_ACCESS_KEY_ID"] == f"{{{{ RUNPOD_SECRET_{name} }}}}"
    del user.runpod.secrets[name]
    looked = json.loads(user.done("doctor", user.spec, "--json").out)["checks"]
    (secrets,) = [c for c in looked if c["name"] == "secrets"]
    assert not secrets["ok"]
    assert f"RunPod has no secret {name}" in secrets["said"]
    user.runpod.faults.secrets = [Fault(404)]
    looked = json.loads(user.done("doctor", user.spec, "--json").out)["checks"]
    (secrets,) = [c for c in looked if c["name"] == "secrets"]
    assert secrets["ok"], "an API without such a list is no failure"
    assert "not checked" in secrets["said"]


# --- EXITED is no end -----------------------------------------------------------------------------


def test_a_pod_that_exits_before_its_start(user: Renting) -> None:
    """It is deleted at once and called EXITED; the next candidate takes the run."""
    user.runpod.faults.pods = [Oddity(stuck="STARTING")]
    submitted = user.submit("--detach", **LOCAL)
    until(lambda: bool(user.pods), say=lambda: submitted.err)
    user.runpod.kill_host(user.pods[0].id, "exited")
    assert submitted.wait() == 0, submitted.err
    assert "it is EXITED before its first sign of life" in submitted.err
    assert (user.pods[0].gone, bills(user)) == (True, [user.pods[1].name])


def test_a_pod_whose_log_is_gone(user: Renting) -> None:
    """Nothing more is to be read, so nothing is waited for."""
    user.runpod.faults.pods = [Oddity(stuck="STARTING")]
    user.runpod.faults.logs = [Fault(404, times=math.inf)]
    submitted = user.submit("--detach", **LOCAL)
    until(lambda: bool(user.pods), say=lambda: submitted.err)
    user.runpod.kill_host(user.pods[0].id, "exited")
    assert submitted.wait() == 0, submitted.err


@pytest.mark.slow
def test_a_pod_that_exits_in_mid_run(user: Renting) -> None:
    """It is deleted at once, and the run goes on in another pod."""
    with user.held():
        submitted = user.submit(**LOCAL)
        until(lambda: bool(user.pods and user.pods[0].lives), say=lambda: submitted.err)
        until(lambda: (user.folder / "pods" / f"steps-{user.run_id}").exists())
        user.runpod.kill_host(user.pods[0].id, "exited")
        until(lambda: len(user.pods) == 2, say=lambda: submitted.err)
    assert submitted.wait() == 0, submitted.err
    assert user.record["attempts"][0]["why"] == "it is EXITED"
    assert ([pod.gone for pod in user.pods], bills(user)) == ([True, True], [])


def test_a_pod_that_can_only_stop_itself(user: Renting) -> None:
    """A pod whose key may not delete it is EXITED after the run: the submitter deletes it."""
    user.runpod.faults.delete = [Fault(403, times=99, key="pod")]
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == 0, submitted.err
    (pod,) = user.pods
    assert pod.gone
    assert last_attempt(user)["why"] == "the run has ended, its pod is EXITED"


def test_an_exited_pod_that_is_left(user: Renting) -> None:
    """`status` names it and what it costs, `list` shows it, a resumption deletes it."""
    user.write(resources=RESOURCES | {"gpu": [L4], "cloud": ["SECURE"]}, **LONG)
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    (pod,) = user.pods
    user.runpod.kill_host(pod.id, "exited")
    state = json.loads(user.done("status", user.run_id, "--json").out)
    assert state["state"] == "lost"
    assert f"pod {pod.id} is EXITED and may still cost money for its disk" in state["error"]
    assert user.run_id in user.done("list").out
    resumed = user.resume(user.run_id, "--detach", **LOCAL)
    assert resumed.wait() == 0, resumed.err
    assert user.record["attempts"][0]["why"] == "it is EXITED"
    assert (pod.gone, bills(user)) == (True, [user.pods[1].name])


def test_a_start_that_times_out(user: Renting) -> None:
    """Its last line is part of the reason, and the next candidate is tried."""
    user.write(
        resources=RESOURCES | {"gpu": [L4], "cloud": ["SECURE"], "start_timeout_minutes": 0.02}
    )
    user.runpod.faults.pods = [Oddity(stuck="RUNNING")]
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == NO_GPU, submitted.err
    assert "no sign of life within 0.02 min" in submitted.err.splitlines()[-1]
    assert bills(user) == []
