"""`list` and `doctor`: finished runs cost no question, and what no pod can reach is refused."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy import list as listing
from deploy.plan.pod_env import unreachable_endpoints
from deploy.runpod.models import Pod
from deploy.runs.finished import FinishedRuns
from deploy.runs.registry import local_records, save_locally
from job.record.document import seal
from job.record.pods import Attempt, PodsRecord
from job.store import Store, Stored, open_store
from tests.support.simulated_user import Renting

RUNS = 200


class Counting:
    """A store that counts what it is asked for, by run."""

    def __init__(self, store: Store) -> None:
        self.store, self.url = store, store.url
        self.asked: Counter[str] = Counter()

    def get(self, key: str) -> Stored:
        """Count, and ask the store."""
        self.asked[key.split("/")[1]] += 1
        return self.store.get(key)


def put_run(store: Store, number: int, finished: bool) -> PodsRecord:
    """A run with one pod, in the store and in this machine's records."""
    begun = datetime.now(UTC) - timedelta(hours=1)
    run_id = f"r{number:03d}"
    attempt = Attempt(
        number=1, pod_name=f"evengrad-jade-{run_id}-1", gpu="L4", cloud="SECURE", intended=begun,
        pod=f"p{number}", cost=0.5, created=begun, ended=begun, why="ended itself",
    )  # fmt: skip
    record = PodsRecord(
        name="jade", run_id=run_id, store=store.url, spec_hash="", image="i", deadline=begun,
        attempts=(attempt,),
    )  # fmt: skip
    save_locally(record)
    store.put(f"{record.run}/pods.json", seal(json.loads(record.model_dump_json())))
    if finished:
        body = {"reason": "succeeded", "exit_code": 0}
        store.put(f"{record.run}/result.json", seal(body))
    return record


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """The store of many runs, all but the last two finished."""
    monkeypatch.setenv("EVENGRAD_STATE", str(tmp_path / "state"))
    store = open_store(tmp_path / "store")
    for number in range(RUNS):
        put_run(store, number, finished=number < RUNS - 2)
    counting = Counting(store)
    monkeypatch.setattr("job.store.open_store", lambda _: counting)
    return counting


def test_finished_runs_are_read_once(counting: Counting) -> None:
    """The first list reads them all; later ones only what has not finished."""
    runs, states = listing.known_states([])
    assert len(runs) == len(states) == len(counting.asked) == RUNS
    counting.asked.clear()
    _, later = listing.known_states([])
    assert set(counting.asked) == {"r198", "r199"}
    assert [s.state for s in later] == [s.state for s in states]
    assert later[0].reason == "succeeded"
    assert later[0].age_seconds is not None
    assert states[0].age_seconds is not None
    assert later[0].age_seconds >= states[0].age_seconds


def test_what_is_read_again(counting: Counting) -> None:
    """A finished run with a pod in RunPod's list, or another record on this machine, is read."""
    listing.known_states([])
    counting.asked.clear()
    name = "evengrad-jade-r005-2"
    _, states = listing.known_states([Pod(id="p", name=name, status="RUNNING")])
    assert set(counting.asked) == {"r005", "r198", "r199"}
    assert [s.pod_listed for s in states if s.run == "jade/r005"] == [True]
    counting.asked.clear()
    record = next(r for r in local_records() if r.run_id == "r007")
    save_locally(record.model_copy(update={"image": "another"}))
    listing.known_states([])
    assert set(counting.asked) == {"r007", "r198", "r199"}


def test_a_finished_run_that_still_costs_is_read_again(counting: Counting) -> None:
    """While its pod is listed, what the run has cost is not its last word."""
    pod = Pod(id="p5", name="evengrad-jade-r005-1", status="RUNNING")
    listing.known_states([pod])
    counting.asked.clear()
    listing.known_states([])
    assert set(counting.asked) == {"r005", "r198", "r199"}


def test_the_index_is_pruned_and_may_be_damaged(counting: Counting, tmp_path: Path) -> None:
    """A run without a record goes from it; a damaged file is a cache that is empty."""
    listing.known_states([])
    index = tmp_path / "state" / "finished.index"
    (tmp_path / "state" / "r000.json").unlink()
    listing.known_states([])
    assert len(json.loads(index.read_text())["runs"]) == RUNS - 3
    index.write_text("[" * 100_000)
    assert FinishedRuns().state(local_records()[0], datetime.now(UTC)) is None
    counting.asked.clear()
    listing.known_states([])
    assert len(counting.asked) == RUNS - 1


# --- endpoints that no pod reaches ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://localhost:9000", "localhost"),
        ("http://127.0.0.1:9000", "127.0.0.1"),
        ("http://[::1]:9000", "::1"),
        ("http://0.0.0.0", "0.0.0.0"),
        ("https://10.1.2.3", "10.1.2.3"),
        ("https://192.168.1.20:9000/x", "192.168.1.20"),
        ("http://172.20.0.2", "172.20.0.2"),
        ("http://169.254.169.254", "169.254.169.254"),
        ("http://[fd00::1]", "fd00::1"),
        ("http://minio:9000", "minio"),
        ("http://nas.local", "nas.local"),
        ("https://s3.eu-central-1.amazonaws.com", None),
        ("https://account.r2.cloudflarestorage.com", None),
        ("https://8.8.8.8", None),
        ("", None),
    ],
)
def test_endpoints_that_no_pod_reaches(url: str, host: str | None) -> None:
    """Addresses and names of one machine or network are refused, for either variable."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        faults = unreachable_endpoints({name: url}, "https://api.runpod.io/v2")
        assert [fault.found for fault in faults] == ([host] if host else [])
    assert unreachable_endpoints({"AWS_ENDPOINT_URL": url}, "http://127.0.0.1:1/v2") == []


@pytest.mark.slow
def test_submit_and_doctor_refuse_them_alike(user: Renting) -> None:
    """Before RunPod is asked for anything; a dry run lists what is missing."""
    del user.environment["RUNPOD_API_URL"]  # a real RunPod's pods are not on this machine
    asked = len(user.runpod.asked)
    submitted = user.submit()
    assert submitted.wait() == 2, submitted.err
    line = "AWS_ENDPOINT_URL: found 127.0.0.1; a pod reaches only public addresses"
    assert line in submitted.err
    dry = user.submit("--dry-run", "--offline")
    assert dry.wait() == 0, dry.err
    assert line in dry.out
    user.environment["RUNPOD_API_URL"] = "http://nobody.invalid/v2"
    looked: list[dict[str, Any]] = json.loads(user.done("doctor", "--json").out)["checks"]
    (store,) = [check for check in looked if check["name"] == "store"]
    assert not store["ok"]
    assert line in store["said"]
    assert len(user.runpod.asked) == asked
