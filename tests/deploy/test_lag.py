"""Lags, deaths and refusals at the worst moment: what they leave behind is ended or named."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.exits import INTERRUPTED, INVALID, JOB_FAILED, NO_GPU, UNCONFIRMED
from tests.runpod.faults import Fault, Oddity
from tests.support.simulated_user import L4, RESOURCES, Renting, renting
from tests.support.warm_process import Nursery, until

pytestmark = pytest.mark.slow
LOCAL: dict[str, Any] = {"deploy.plan.prepare:REACHABLE": ["s3://", "/"]}
"""A store in a directory: what is tested here is between the submitter and RunPod."""
ONE = RESOURCES | {"gpu": [L4], "cloud": ["SECURE"]}
LONG = {"train.epochs": 100_000}
FOREVER = 3600.0


@pytest.fixture
def user(tmp_path: Path, nursery: Nursery) -> Iterator[Renting]:
    """A user whose store is a directory."""
    with renting(tmp_path, str(tmp_path / "store"), nursery) as made:
        made.write(resources=ONE, **LONG)
        yield made


def bills(user: Renting) -> list[str]:
    """The pods that cost money."""
    return [pod.name for pod in user.runpod.billing()]


def lag(user: Renting, seconds: float) -> None:
    """For so long new pods can neither be read nor are they listed."""
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


def test_pods_that_appear_late(user: Renting) -> None:
    """Two creates without an answer, both carried out, and lists that lag: exit 5 and the names."""
    user.runpod.faults.create = [Fault(500, done=True), Fault(500, done=True)]
    lag(user, FOREVER)
    with user.held():  # a pod that has ended itself is not seen any more
        submitted = user.submit("--json", **LOCAL)
        assert submitted.wait() == UNCONFIRMED, submitted.err
        error = json.loads(submitted.err.splitlines()[-1])["error"]
        assert all(pod.name in error for pod in user.pods)
        lag(user, 0.0)
        cancelled = user.done("cancel", user.run_id, "--yes", "--wait", "60")
        assert cancelled.code == 0, cancelled.out + cancelled.err
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
    user.runpod.faults.listing_lag = FOREVER
    resumed = user.resume(user.run_id, "--detach", **LOCAL)
    assert resumed.wait() == 0, resumed.err
    assert len(user.pods) == 1


def test_two_followers(user: Renting) -> None:
    """For both of them a run that succeeded is a success."""
    user.write(resources=ONE, **{"train.epochs": 40})
    with user.held():
        first = user.submit(**LOCAL)
        until(lambda: bool(user.pods and user.pods[0].lives), say=lambda: first.err)
        second = user.resume(user.run_id, **LOCAL)
        until(lambda: "candidates, in order" in second.out, say=lambda: second.err)
    assert (first.wait(), second.wait()) == (0, 0), first.err + second.err
    assert bills(user) == []


# --- cancel and reap ------------------------------------------------------------------------------


def test_cancel_ends_what_no_list_shows(user: Renting) -> None:
    """A pod that is stuck in its pull and not listed is ended by the id in the book."""
    user.runpod.faults.pods = [Oddity(stuck="STARTING")]
    submitted = user.submit(**LOCAL)
    until(lambda: bool(user.pods) and user.record["attempts"][0]["pod"] is not None)
    submitted.signal(signal.SIGKILL)
    user.runpod.faults.listing_lag = FOREVER
    cancelled = user.done("cancel", user.run_id, "--yes", "--wait", "1")
    assert cancelled.code == 0, cancelled.err
    assert bills(user) == []


def test_cancel_without_runpod(user: Renting) -> None:
    """The intent is in the store before RunPod is asked: the container ends by itself."""
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    user.runpod.faults.listing = [Fault(500, times=99)]
    assert user.done("cancel", user.run_id, "--yes").code == UNCONFIRMED
    until(lambda: bills(user) == [])


def test_reap_names_what_it_cannot_judge(user: Renting) -> None:
    """A pod of ours whose store cannot be read is named, and the exit code says so."""
    submitted = user.submit("--detach", **LOCAL)
    assert submitted.wait() == 0, submitted.err
    (pod,) = user.pods
    pod.body["env"]["EVENGRAD_STORE"] = "s3://"
    reaped = user.done("reap", "--yes", "--json", "--stale-minutes", "0.01")
    assert reaped.code == UNCONFIRMED, reaped.err
    assert json.loads(reaped.out)["not_judged"][0]["pod_id"] == pod.id
    assert bills(user) == [pod.name]
    assert pod.name in user.done("list").out


# --- secrets and specs ----------------------------------------------------------------------------


def test_api_that_repeats_a_secret(user: Renting) -> None:
    """It is neither on the terminal, nor in the records here and in the store."""
    secret = "hunter2 hunter2"
    user.variables.write_text(user.variables.read_text() + f"MY='{secret}'\n")
    user.runpod.faults.create = [Fault(422, text=f"env.MY: invalid value {secret!r}")]
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == INVALID, submitted.err
    assert "<redacted>" in submitted.err
    record = (user.folder / "store" / "small" / user.run_id / "pods.json").read_text()
    assert secret not in submitted.out + submitted.err + record + json.dumps(user.record)


def test_image_with_another_spec(user: Renting) -> None:
    """A container whose spec is not the submitted one does not train, whatever its label says."""
    other = user.spec.with_name("other.json")
    other.write_text(user.spec.read_text().replace("100000", "7"))
    assert other.read_text() != user.spec.read_text()
    user.image = user.push(other, labelled=user.spec)
    submitted = user.submit(**LOCAL)
    assert submitted.wait() == JOB_FAILED, submitted.err
    assert "EVENGRAD_SPEC_HASH" in submitted.err
    assert bills(user) == []
