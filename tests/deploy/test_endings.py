"""How pods are ended: how often RunPod is asked, and how long it takes by the test's clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy import cancel
from deploy.exits import UNCONFIRMED, CommandError
from deploy.runpod import lookup, terminate
from deploy.runpod.client import RunPod
from deploy.runpod.errors import NotAllowed, NotThere, Unanswered
from deploy.runpod.models import Pod
from deploy.runpod.terminate import end_pod
from job.record.document import Document, seal
from job.record.pods import Attempt, PodsRecord, RunRef
from job.store import Store, Stored, Unavailable, open_store
from job.store.base import Bytes
from job.store.directory import DirectoryStore

RUN = RunRef(name="jade", run_id="r1", store="")
NAME = "evengrad-jade-r1-1"


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep: Callable[[], None] = lambda: None
        """Called whenever time has passed."""

    def monotonic(self) -> float:
        """Seconds so far."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.on_sleep()


class Api(RunPod):
    """RunPod's pods in memory, and how often it was asked for what."""

    def __init__(self, clock: Clock, **pods: str) -> None:
        super().__init__("key")
        self.clock = clock
        self.statuses = dict(pods)
        """By id."""
        self.appears: dict[str, float] = {}
        """When a pod can be read and is listed, by id."""
        self.asked: list[str] = []

    def _known(self) -> dict[str, str]:
        now = self.clock.now
        return {p: s for p, s in self.statuses.items() if now >= self.appears.get(p, 0.0)}

    def pods(self) -> list[Pod]:
        self.asked.append("list")
        return [Pod(id=pod, name=NAME, status=s) for pod, s in self._known().items()]

    def pod(self, pod: str) -> Pod:
        self.asked.append("get")
        if pod not in self._known():
            raise NotThere("GET", "404")
        return Pod(id=pod, name=NAME, status=self.statuses[pod])

    def delete(self, pod: str) -> bool:
        self.asked.append("delete")
        return pod in self._known() and self.statuses.pop(pod) is not None

    def stop(self, pod: str) -> None:
        self.asked.append("stop")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of everything that ends pods."""
    clock = Clock()
    for module in (terminate, lookup, cancel):
        monkeypatch.setattr(module, "time", SimpleNamespace(**_functions(clock)))
    return clock


def _functions(clock: Clock) -> dict[str, Any]:
    return {"monotonic": clock.monotonic, "sleep": clock.sleep}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Where the run is."""
    return open_store(tmp_path / "store")


def record(store: Store, age: float, **attempt: Any) -> None:
    """The run's pods record, with one attempt that began so many seconds ago."""
    intended = datetime.now(UTC) - timedelta(seconds=age)
    facts = {"number": 1, "pod_name": NAME, "gpu": "L4", "cloud": "SECURE", "intended": intended}
    body = PodsRecord(
        **dict(RUN), spec_hash="", image="i", deadline=intended,
        attempts=(Attempt(**facts, **attempt),),
    )  # fmt: skip
    store.put("jade/r1/pods.json", seal(json.loads(body.model_dump_json())))


# --- one pod --------------------------------------------------------------------------------------


def test_a_living_pod(clock: Clock) -> None:
    """Deleted once, and looked at until three answers in a row have not had it: 6 s."""
    api = Api(clock, p="RUNNING")
    end_pod(api, "p", NAME)
    assert api.statuses == {}
    assert (api.asked.count("get"), clock.now) == (3, 4.0)


def test_a_pod_once_seen_and_now_gone(clock: Clock) -> None:
    """It is gone: three looks, 4 s. One that was never seen may only be unknown: 120 s."""
    api = Api(clock)
    end_pod(api, "p", NAME, seen=True)
    assert (api.asked.count("get"), clock.now) == (3, 4.0)
    end_pod(api, "p", NAME, seen=False)
    assert 120 <= clock.now - 4 <= 124


def test_a_pod_that_becomes_known_late(clock: Clock) -> None:
    """A pod that RunPod does not know at first is deleted as soon as it does."""
    api = Api(clock, p="RUNNING")
    api.appears["p"] = 90.0
    end_pod(api, "p", NAME)
    assert api.statuses == {}
    assert 90 <= clock.now <= 100


def test_a_pod_that_may_not_be_deleted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped at least; after five minutes an error says that it may still cost money."""

    def refuse(api: Api, pod: str) -> bool:
        raise NotAllowed("DELETE", "403")

    monkeypatch.setattr(Api, "delete", refuse)
    api = Api(clock, p="RUNNING")
    with pytest.raises(CommandError, match="may still cost money: DELETE: 403") as caught:
        end_pod(api, "p", NAME)
    assert (caught.value.code, caught.value.pod) == (UNCONFIRMED, "p")
    assert "stop" in api.asked
    assert 300 <= clock.now <= 302


# --- all pods of a run ----------------------------------------------------------------------------


def test_cancel_of_a_living_pod(clock: Clock, store: Store) -> None:
    """Two lists, and no pause between them: as long as the pod takes, 4 s."""
    record(store, 10, pod="p")
    api = Api(clock, p="RUNNING")
    assert cancel.end_pods(api, RUN, store) == ["p"]
    assert (api.asked.count("list"), clock.now) == (2, 4.0)


def test_cancel_of_a_pod_that_went_before(clock: Clock, store: Store) -> None:
    """A pod in the record that RunPod had time to know, or that has booted, is gone: 4 s."""
    record(store, 600, pod="p")
    assert cancel.end_pods(Api(clock), RUN, store) == ["p"]
    assert clock.now == 4.0
    record(store, 10, pod="p")
    store.put("jade/r1/boots.json", seal({"schema": 1, "step": 0, "boots": 1, "pod": "p"}))
    assert cancel.end_pods(Api(clock), RUN, store) == ["p"]
    assert clock.now == 8.0


def test_cancel_without_pods(clock: Clock, store: Store) -> None:
    """One list is enough if no attempt is open, or its create was refused."""
    api = Api(clock)
    assert cancel.end_pods(api, RUN, store) == []
    record(store, 10, ended=datetime.now(UTC), why="refused")
    assert cancel.end_pods(api, RUN, store) == []
    assert (api.asked, clock.now) == (["list", "list"], 0.0)


def test_cancel_while_a_create_is_open(clock: Clock, store: Store) -> None:
    """Three lists in 10 s, then exit 5 with the name; a pod that appears is ended, and settles it;
    after five minutes the create has made none."""
    record(store, 10)
    with pytest.raises(CommandError, match=f"{NAME} may yet appear") as caught:
        cancel.end_pods(Api(clock), RUN, store)
    assert (caught.value.code, clock.now) == (UNCONFIRMED, 10.0)
    api = Api(clock, late="STARTING")
    api.appears["late"] = 17.0
    assert cancel.end_pods(api, RUN, store) == ["late"]
    assert clock.now == 24.0
    record(store, 301)
    assert cancel.end_pods(Api(clock), RUN, store) == []
    assert clock.now == 24.0


def test_cancel_while_lists_are_stale(clock: Clock, store: Store) -> None:
    """A pod that was ended is not ended again, though lists show it on."""
    record(store, 600, pod="p")
    api = Api(clock)

    def stale() -> list[Pod]:
        return [Pod(id="p", name=NAME, status="RUNNING")]

    api.pods = stale  # type: ignore[method-assign]  # this one is stale
    assert cancel.end_pods(api, RUN, store) == ["p"]
    assert clock.now == 4.0


def test_cancel_while_runpod_does_not_list(clock: Clock, store: Store) -> None:
    """A failed list is an error, not an empty one."""
    api = Api(clock)

    def fail() -> list[Pod]:
        raise Unanswered("GET pods", "500")

    api.pods = fail  # type: ignore[method-assign]  # this one fails
    with pytest.raises(Unanswered):
        cancel.end_pods(api, RUN, store)


# --- waiting for the container's own end ----------------------------------------------------------


@pytest.fixture
def begun(store: Store) -> Store:
    """A run whose container has begun, in pod `p`."""
    store.put("jade/r1/boots.json", seal({"schema": 1, "step": 0, "boots": 1, "pod": "p"}))
    return store


@pytest.mark.parametrize("status", ["RUNNING", "EXITED", None])
def test_waiting_for_a_container(clock: Clock, begun: Store, status: str | None) -> None:
    """Only a container that runs is waited for: 45 s; with none there is nothing to wait for."""
    api = Api(clock) if status is None else Api(clock, p=status)
    assert cancel._wait_for_result(api, RUN, begun, 45.0) is None
    assert clock.now == (45.0 if status == "RUNNING" else 0.0)


def test_waiting_ends_with_the_container(clock: Clock, begun: Store) -> None:
    """A result ends it at once; a pod that goes meanwhile, within five looks."""
    api = Api(clock, p="RUNNING")
    clock.on_sleep = lambda: api.statuses.clear() if clock.now >= 7 else None
    assert cancel._wait_for_result(api, RUN, begun, 45.0) is None
    assert clock.now == 10.0
    Document(begun, "jade/r1/result.json").write({"reason": "cancelled", "exit_code": 1})
    result = cancel._wait_for_result(api, RUN, begun, 45.0)
    assert result is not None
    assert (result.reason, clock.now) == ("cancelled", 10.0)


def test_a_pod_that_has_not_begun_is_not_waited_for(clock: Clock, store: Store) -> None:
    """Its container cannot store an end."""
    assert cancel._wait_for_result(Api(clock, p="STARTING"), RUN, store, 45.0) is None
    assert clock.now == 0.0


# --- the command ----------------------------------------------------------------------------------


class Down(DirectoryStore):
    """A store that does not answer."""

    def get(self, key: str) -> Stored:
        raise Unavailable(f"{key}: no answer")

    def put_if_absent(self, key: str, data: Bytes) -> str:
        raise Unavailable(f"{key}: no answer")

    put = put_if_absent


def cancelled_with(
    monkeypatch: pytest.MonkeyPatch, api: RunPod, store: Store
) -> Callable[[], None]:
    """The command on RUN, with this RunPod and this store."""
    monkeypatch.setattr(cancel, "client", lambda _: api)
    monkeypatch.setattr("deploy.runs.locate.locate", lambda *_: RUN)
    monkeypatch.setattr("job.store.open_store", lambda *_: store)
    return lambda: cancel.cancel("r1", yes=True)


def test_pods_are_ended_while_the_store_is_down(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that does not answer keeps no pod alive; then its own error is raised."""
    api = Api(clock, p="RUNNING")
    run = cancelled_with(monkeypatch, api, Down(tmp_path))
    with pytest.raises(Unavailable):
        run()
    assert api.statuses == {}


def test_a_pod_that_cannot_be_ended_is_never_called_ended(
    clock: Clock, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has a result and its record is closed: a refused delete still ends with exit 5."""
    record(store, 600, pod="p", ended=datetime.now(UTC))
    Document(store, "jade/r1/result.json").write({"reason": "succeeded", "exit_code": 0})

    class Refusing(Api):
        def delete(self, pod: str) -> bool:
            raise NotAllowed("DELETE", "403")

        def stop(self, pod: str) -> None:
            raise NotAllowed("POST", "403")

    with pytest.raises(CommandError, match="p") as caught:
        cancelled_with(monkeypatch, Refusing(clock, p="EXITED"), store)()
    assert caught.value.code == UNCONFIRMED


def test_a_damaged_pods_record_is_not_a_closed_one(
    clock: Clock, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RunPod does not answer, the run has a result and its record cannot be read: exit 5."""
    Document(store, "jade/r1/result.json").write({"reason": "succeeded", "exit_code": 0})
    store.put("jade/r1/pods.json", b"{")

    class Silent(Api):
        def pods(self) -> list[Pod]:
            raise Unanswered("GET", "no answer")

    with pytest.raises(CommandError) as caught:
        cancelled_with(monkeypatch, Silent(clock), store)()
    assert caught.value.code == UNCONFIRMED
