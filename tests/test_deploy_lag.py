"""Lags, deaths and refusals at the worst moment: whatever they leave behind is ended, or told."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.ends import FAILED, INTERRUPTED, INVALID, NO_GPU, UNCONFIRMED
from tests.nursery import Nursery, until
from tests.renting import L4, RESOURCES, Renting, renting
from tests.runpod_simulator import Fault, Oddity

pytestmark = pytest.mark.slow
LOCAL: dict[str, Any] = {"deploy.prepare:REACHABLE": ["s3://", "/"]}
"""A store in a directory: what is tested here is between the submitter and RunPod."""
ONE = RESOURCES | {"gpu": [L4], "cloud": ["SECURE"]}
LONG = {"train.epochs": 100_000}


@pytest.fixture
def user(tmp_path: Path, nursery: Nursery) -> Iterator[Renting]:
    """A user whose store is a directory."""
    with renting(tmp_path, str(tmp_path / "store"), nursery) as made:
        made.write(resources=ONE, **LONG)
        yield made


def bills(user: Renting) -> list[str]:
    return [pod.name for pod in user.runpod.billing()]


def lag(user: Renting, seconds: float) -> None:
    """New pods can neither be read nor are they listed for so long."""
    user.runpod.faults.early_404 = user.runpod.faults.listing_lag = seconds


# --- pods that cannot be seen yet -----------------------------------------------------------------


def test_wrong_pod_that_cannot_be_read_yet(user: Renting) -> None:
    """A pod at the wrong price is deleted although RunPod says that there is none."""
    user.runpod.faults.pods = [Oddity(price=9.0, stuck="STARTING")]
    lag(user, 1.0)
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == NO_GPU, submitted.err
    assert bills(user) == []


def test_interrupted_while_it_cannot_be_read(user: Renting) -> None:
    """Ctrl-C says that no pod is left, and none is."""
    user.runpod.faults.pods = [Oddity(stuck="STARTING")]
    lag(user, 1.0)
    submitted = user.submit(**LOCAL)
    until(lambda: bool(user.pods), say=lambda: submitted.err)
    submitted.signal(signal.SIGINT)
    assert submitted.wait() == INTERRUPTED, submitted.err
    assert bills(user) == []


def test_slow_pod_that_cannot_be_read_yet(user: Renting) -> None:
    """404 for a while and a slow pull are no end: the pod is waited for."""
    user.runpod.timing.provisioning = 1.2
    lag(user, 1.0)
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    assert len(bills(user)) == 1


def test_pods_that_come_to_light_late(user: Renting) -> None:
    """Two creates without an answer, both done, and lists that lag: exit 5 and the names."""
    user.runpod.faults.create = [Fault(500, done=True), Fault(500, done=True)]
    lag(user, 2.0)
    submitted = user.submit("--json", **LOCAL)
    assert submitted.wait() == UNCONFIRMED, submitted.err
    told = json.loads(submitted.err.splitlines()[-1])
    assert all(pod.name in told["error"] for pod in user.pods)
    time.sleep(2.0)
    assert user.done("cancel", user.run_id, "--yes", "--wait", "2").code == 0
    assert bills(user) == []


def test_creates_without_an_answer(user: Renting) -> None:
    """Nothing was made, but nobody can know that yet: exit 5, not "none is within the ceiling"."""
    user.runpod.faults.create = [Fault(500), Fault(500)]
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == UNCONFIRMED, submitted.err
    assert "may exist" in submitted.err.splitlines()[-1]


def test_answers_that_no_contract_knows(user: Renting) -> None:
    """A 408 with the pod made is as ambiguous as a 500: it is looked for and adopted."""
    user.runpod.faults.create = [Fault(408, done=True)]
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    assert len(user.pods) == 1


# --- deaths in between ----------------------------------------------------------------------------


def test_adopted_pods_are_checked(user: Renting) -> None:
    """A submitter dies before it can check the price; the next one does."""
    user.runpod.faults.pods = [Oddity(price=9.0)]
    user.runpod.faults.create = [Fault("silence", done=True)]
    submitted = user.submit(**LOCAL)
    until(lambda: bool(user.pods), say=lambda: submitted.err)
    submitted.signal(signal.SIGKILL)
    submitted.wait()
    resumed = user.resume(user.run_id, "--detach", **LOCAL)
    assert resumed.wait() == 0, resumed.err
    assert [pod.price < 1 for pod in user.pods] == [False, True]
    assert bills(user) == [user.pods[1].name]


def test_adopted_by_its_id(user: Renting) -> None:
    """A pod that lists do not show is found by the id in the book, and not rented twice."""
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    user.runpod.faults.listing_lag = 60.0
    resumed = user.resume(user.run_id, "--detach", **LOCAL)
    assert resumed.wait() == 0, resumed.err
    assert len(user.pods) == 1


def test_host_that_dies_before_the_start(user: Renting) -> None:
    """An image pull that a host did not survive is no failure of the job: the next candidate."""
    user.write(**LONG)
    user.runpod.faults.pods = [Oddity(stuck="STARTING")]
    submitted = user.submit("--detach", **LOCAL)
    until(lambda: bool(user.pods), say=lambda: submitted.err)
    time.sleep(0.2)
    user.runpod.kill_host(user.pods[0].id, "exited")
    assert submitted.wait() == 0, submitted.err
    assert bills(user) == [user.pods[1].name]


def test_two_followers(user: Renting) -> None:
    """Whoever follows, a run that succeeded is a success."""
    user.write(resources=ONE, **{"train.epochs": 40})
    first = user.submit(**LOCAL)
    until(lambda: bool(user.pods and user.pods[0].lives), say=lambda: first.err)
    second = user.resume(user.run_id, **LOCAL)
    assert (first.wait(), second.wait()) == (0, 0), first.err + second.err
    assert bills(user) == []


# --- cancel and reap ------------------------------------------------------------------------------


def test_cancel_ends_what_no_list_shows(user: Renting) -> None:
    """A pod that is stuck in its pull and not listed is ended by the id in the book."""
    user.runpod.faults.pods = [Oddity(stuck="STARTING")]
    submitted = user.submit(**LOCAL)
    until(lambda: bool(user.pods) and user.book["attempts"][0]["pod"] is not None)
    submitted.signal(signal.SIGKILL)
    user.runpod.faults.listing_lag = 60.0
    cancelled = user.done("cancel", user.run_id, "--yes", "--wait", "1")
    assert cancelled.code == 0, cancelled.err
    assert bills(user) == []


def test_cancel_without_runpod(user: Renting) -> None:
    """The intent is in the store before RunPod is asked: the container ends by itself."""
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    user.runpod.faults.listing = [Fault(500, times=99)]
    assert user.done("cancel", user.run_id, "--yes").code == UNCONFIRMED
    until(lambda: bills(user) == [], 30.0)


def test_reap_tells_what_it_cannot_judge(user: Renting) -> None:
    """A pod of ours whose store is nowhere is told, and the exit code says so."""
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    (pod,) = user.pods
    pod.body["env"]["EVENGRAD_STORE"] = "s3://"
    reaped = user.done("reap", "--yes", "--json", "--stale-minutes", "0.01")
    assert reaped.code == UNCONFIRMED, reaped.err
    assert json.loads(reaped.out)["not_judged"][0]["pod_id"] == pod.id
    assert bills(user) == [pod.name]
    assert pod.name in user.done("list").out


# --- what is told ---------------------------------------------------------------------------------


def test_api_that_repeats_a_secret(user: Renting) -> None:
    """Neither the terminal, nor the book, nor the store learns it."""
    secret = "hunter2 hunter2"
    user.variables.write_text(user.variables.read_text() + f"MY='{secret}'\n")
    user.runpod.faults.create = [Fault(422, text=f"env.MY: invalid value {secret!r}")]
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == INVALID, submitted.err
    assert "<redacted>" in submitted.err
    book = (user.folder / "store" / "small" / user.run_id / "pods.json").read_text()
    assert secret not in submitted.out + submitted.err + book + json.dumps(user.book)


def test_image_with_another_spec(user: Renting) -> None:
    """A container that holds another spec than the one submitted does not train."""
    other = user.spec.with_name("other.json")
    other.write_text(user.spec.read_text())
    user.write(resources=ONE, **{"train.epochs": 7})
    image = next(iter(user.runpod.images))
    user.runpod.images[image] = user.spec
    user.spec = other
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == FAILED, submitted.err
    assert "EVENGRAD_SPEC_HASH" in submitted.err
    assert bills(user) == []
