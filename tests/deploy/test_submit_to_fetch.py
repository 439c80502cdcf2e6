"""From submit to fetch, over a simulated RunPod with the real supervisor, trainer and S3 server."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.exits import (
    CANCELLED,
    DEADLINE,
    GATES_FAILED,
    INTERRUPTED,
    JOB_FAILED,
    NO_ACCESS,
    NO_GPU,
    NOT_FINISHED,
    NOT_FOUND,
    UNCONFIRMED,
)
from job.record.document import Document
from job.record.history import read_document
from tests.runpod.faults import Fault, Oddity
from tests.runpod.pod import SimulatedPod
from tests.support.runs import SPEC, Undisturbed
from tests.support.runs import Run as StoredRun
from tests.support.simulated_user import A4000, L4, RESOURCES, Renting
from tests.support.tiny_job import SMALL
from tests.support.warm_process import until

LONG = {"train.epochs": 100_000}
SLOW = pytest.mark.slow


def bills(user: Renting) -> list[str]:
    """Names of the pods that cost money."""
    return [pod.name for pod in user.runpod.billing()]


def stored(user: Renting) -> StoredRun:
    """The newest run, as its store has it."""
    return StoredRun(user.nursery, user.spec, user.url, user.run_id)


# --- the whole way --------------------------------------------------------------------------------


@pytest.mark.trains
def test_submit_to_fetch(user: Renting, tmp_path: Path) -> None:
    """A submitted run trains in its pod, which ends itself; everything can be read afterwards."""
    user.write(**{"gates": [{"task": "level", "drop": -1, "by_epoch": 2}]})
    submitted = user.submit()
    assert submitted.wait() == 0, submitted.err
    assert "succeeded · exit 0" in submitted.out
    (pod,) = user.pods
    assert (pod.gone, bills(user)) == (True, [])
    deletes = [a for a in user.runpod.asked if a.method == "DELETE"]
    assert deletes[0].key == "pod", "the container ends its own pod"

    run = user.run_id
    printed = user.done("logs", run)
    assert printed.code == 0
    assert "epoch" in printed.out
    assert "succeeded" in printed.out
    lines = user.done("logs", run, "--json").events
    assert [e["seq"] for e in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["event"] == "run.finished"
    last = user.done("logs", f"small/{run}", "--json", "--tail", "2", "-f")
    assert (last.code, last.events) == (0, lines[-2:])
    steps = user.done("logs", run, "--json", "--event", "step", "--task", "level").events
    assert {tuple(e["tasks"]) for e in steps} == {("level",)}
    assert user.done("logs", run, "--json", "--since", "2100-01-01").out == ""

    status = user.done("status", run, "--json")
    assert status.code == 0
    state = json.loads(status.out)
    assert (state["state"], state["reason"], state["gpu"]) == ("finished", "succeeded", L4)
    assert state["spent_usd"] == pytest.approx(pod.billed_usd, abs=0.001)
    assert run in user.done("list", "--all").out
    assert run not in user.done("list").out

    fetched = user.done("fetch", run, "-o", tmp_path / "got")
    assert fetched.code == 0, fetched.err
    names = {path.name for path in (tmp_path / "got").iterdir()}
    assert names == {"model.safetensors", "spec.json", "result.json"}
    assert (tmp_path / "got" / "model.safetensors").read_bytes() == stored(user).end().model
    (tmp_path / "got" / "result.json").write_text("mine")
    again = user.done("fetch", run, "-o", tmp_path / "got")
    assert again.code == 2
    assert (tmp_path / "got" / "result.json").read_text() == "mine"

    diff = user.done("diff", run, user.spec)
    assert diff.code == 0
    assert "the specs are the same" in diff.out


@pytest.mark.slow
@pytest.mark.trains
def test_host_death_in_mid_run(user: Renting, undisturbed: Undisturbed) -> None:
    """The submitter places a new pod; the run ends as if nothing had happened, bit by bit."""
    user.write(**SPEC)
    submitted = user.submit()
    until(lambda: "checkpoint.saved" in _printed(user), say=lambda: submitted.err, pause=0.002)
    user.runpod.kill_host(user.pods[0].id, "vanishes")
    assert submitted.wait() == 0, submitted.err
    assert len(user.pods) == 2
    assert bills(user) == []
    end = stored(user).end()
    assert end.model == undisturbed.end.model
    assert end.state == undisturbed.end.state
    assert end.progress == undisturbed.end.progress


@pytest.mark.slow
@pytest.mark.trains
def test_resume_by_a_later_submitter(user: Renting, undisturbed: Undisturbed) -> None:
    """Submitter and host die; `submit --resume` goes on, in the image that the run began with."""
    user.write(**SPEC)
    submitted = user.submit()
    until(lambda: "checkpoint.saved" in _printed(user), say=lambda: submitted.err, pause=0.002)
    submitted.signal(signal.SIGKILL)
    user.runpod.kill_host(user.pods[0].id, "exited")
    resumed = user.resume(user.run_id)
    assert resumed.wait() == 0, resumed.err
    assert [pod.body["image"] for pod in user.pods] == [user.image, user.image]
    assert bills(user) == []
    assert stored(user).end() == undisturbed.end


def _printed(user: Renting) -> str:
    """What the first pod's container has printed."""
    return user.pods[0].log.text("container") if user.pods else ""


@pytest.mark.slow
def test_adopting_a_living_pod(user: Renting) -> None:
    """A submitter that ends leaves the job running; the next one follows it in the same pod."""
    with user.held():
        first = user.submit("--detach")
        assert first.wait() == 0, first.err
        assert "deploy.cancel" in first.err
        looks = len(user.runpod.asked)
        second = user.resume(user.run_id, "--json")
        until(lambda: _reads_of_pods(user, looks) > 0, say=lambda: second.err)
    assert second.wait() == 0, second.err
    summary = json.loads(second.out)
    assert (summary["state"], summary["pods"]) == ("succeeded", 1)
    assert len(user.pods) == 1


def _reads_of_pods(user: Renting, since: int) -> int:
    """How often a submitter has read a single pod, since so many requests."""
    asked = user.runpod.asked[since:]
    return sum(a.method == "GET" and "/pods/" in a.path and a.key == "account" for a in asked)


# --- how runs end ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.trains
@pytest.mark.parametrize(
    ("edits", "code", "reason"),
    [
        ({"gates": [{"task": "pair", "skill": 0.99, "by_epoch": 3}]}, GATES_FAILED, "gates_failed"),
        ({"resources": RESOURCES | {"max_hours": 0.0012}, **LONG}, DEADLINE, "deadline_exceeded"),
    ],
    ids=["gates", "deadline"],
)
def test_the_jobs_end_is_the_submitters(
    user: Renting, edits: dict[str, Any], code: int, reason: str
) -> None:
    """Failed gates and the deadline have their own exit codes; no pod is left."""
    user.write(**edits)
    submitted = user.submit("--json")
    assert submitted.wait() == code, submitted.err
    summary = json.loads(submitted.out)
    assert (summary["state"], summary["exit_code"]) == (reason, code)
    assert bills(user) == []


@pytest.mark.slow
@pytest.mark.trains
def test_job_that_fails(user: Renting) -> None:
    """A spec that does not fit its data ends the pod, is not tried again, and says why."""
    user.write(tasks=[{**SMALL["tasks"][0], "outputs": 3, "level": "step"}])
    submitted = user.submit()
    assert submitted.wait() == JOB_FAILED, submitted.err
    assert "$.tasks[0]" in submitted.err
    assert len(user.pods) == 1
    assert bills(user) == []


def test_unfilled_secret(user: Renting) -> None:
    """A secret that RunPod does not know ends the pod at once, and the submitter says so."""
    user.variables.write_text(
        "AWS_ACCESS_KEY_ID='{{ RUNPOD_SECRET_nowhere }}'\nAWS_SECRET_ACCESS_KEY='x'\n"
    )
    submitted = user.submit()
    assert submitted.wait() == JOB_FAILED, submitted.err
    assert "RunPod did not fill in the secret" in submitted.err
    assert bills(user) == []


@pytest.mark.slow
def test_cancel(user: Renting) -> None:
    """The container stores its end and ends its pod; a cancelled run gets no other pod."""
    user.write(**LONG)
    submitted = user.submit()
    until(lambda: '"step"' in _status(user), say=lambda: submitted.err)
    assert user.done("status", user.run_id).code == NOT_FINISHED
    cancelled = user.done("cancel", user.run_id, "--yes")
    assert cancelled.code == 0, cancelled.err
    assert "no pod of it is left" in cancelled.err
    assert submitted.wait() == CANCELLED, submitted.err
    assert user.done("status", user.run_id).code == CANCELLED
    resumed = user.resume(user.run_id)
    assert resumed.wait() == 2, resumed.err
    assert (len(user.pods), bills(user)) == (1, [])


def _status(user: Renting) -> str:
    try:
        return json.dumps(read_document(user.store, f"small/{user.run_id}", "status.json"))
    except ValueError:
        return ""


@pytest.mark.slow
def test_interrupted_while_following(user: Renting) -> None:
    """Ctrl-C detaches: the job goes on, and the commands to come back are printed."""
    user.write(**LONG)
    submitted = user.submit()
    until(lambda: '"step"' in _status(user), say=lambda: submitted.err)
    submitted.signal(signal.SIGINT)
    assert submitted.wait() == 0, submitted.err
    assert f"python -m deploy.logs {user.run_id} -f" in submitted.err
    assert len(bills(user)) == 1


def test_interrupted_before_the_start(user: Renting) -> None:
    """Ctrl-C while the image is pulled ends the pod that was rented."""
    user.runpod.faults.pods = [Oddity(stuck="STARTING")]
    submitted = user.submit()
    until(lambda: bool(user.pods), say=lambda: submitted.err)
    submitted.signal(signal.SIGINT)
    assert submitted.wait() == INTERRUPTED, submitted.err
    assert bills(user) == []
    assert user.record["attempts"][0]["why"] == "interrupted"


# --- what RunPod may answer -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        (Fault(401), NO_ACCESS, "POST pods"),
        (Fault(402, text="balance too low"), NO_ACCESS, "balance too low"),
        (Fault(403, times=9, text="not for you"), NO_GPU, "not for you"),
        (Fault(400, times=9, text="no such rule"), NO_GPU, "no such rule"),
        (Fault(422, text="unknown property"), 2, "unknown property"),
        (Fault(429, times=99), 1, "rate limit"),
    ],
    ids=lambda value: str(value.answer) if isinstance(value, Fault) else None,
)
def test_refused_creates(user: Renting, fault: Fault, code: int, text: str) -> None:
    """Each refusal has its exit code and one line; nothing is rented, and no key is printed."""
    user.runpod.faults.create = [fault]
    submitted = user.submit()
    assert submitted.wait() == code, submitted.err
    assert text in submitted.err.splitlines()[-1]
    assert user.pods == []
    _assert_no_secrets(user, submitted.out + submitted.err)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault(500, done=True),
        pytest.param(Fault(500), marks=SLOW),
        pytest.param(Fault(502, done=True), marks=SLOW),
        pytest.param(Fault(502), marks=SLOW),
        pytest.param(Fault("silence", done=True), marks=SLOW),
        pytest.param(Fault("cut", done=True), marks=SLOW),
        pytest.param(Fault("cut"), marks=SLOW),
        pytest.param(Fault("broken", done=True), marks=SLOW),
        pytest.param(Fault(429, times=2, retry_after=1), marks=SLOW),
    ],
    ids=lambda f: f"{f.answer}{' done' if f.done else ''}",
)
def test_ambiguous_creates(user: Renting, fault: Fault) -> None:
    """Whatever an answer leaves open, the run trains once and in one pod."""
    user.runpod.faults.create = [fault]
    impatient = {"deploy.runpod.client:TIMEOUT": 5.0} if fault.answer == "silence" else {}
    with user.held():  # or the pod would end, and be gone, before it is looked for
        submitted = user.submit(**impatient)
        until(lambda: bool(user.pods) and any(a["pod"] for a in user.record["attempts"]))
    assert submitted.wait() == 0, submitted.err
    assert len(user.pods) == 1
    assert bills(user) == []


@pytest.mark.slow
def test_listing_lag_and_early_404(user: Renting) -> None:
    """A pod that lists do not show yet is found, and one that cannot be read yet is not lost."""
    user.runpod.faults.create = [Fault(500, done=True)]
    user.runpod.faults.listing_lag, user.runpod.faults.early_404 = 0.15, 1.0
    submitted = user.submit()
    assert submitted.wait() == 0, submitted.err
    assert len(user.pods) == 1


@pytest.mark.slow
def test_listing_that_fails(user: Renting) -> None:
    """If it is unknown whether the pod exists, exit 5 names it; `cancel` ends it later."""
    user.runpod.faults.create = [Fault(500, done=True)]
    user.runpod.faults.listing = [Fault(500, times=99)]
    submitted = user.submit("--json")
    assert submitted.wait() == UNCONFIRMED, submitted.err
    error = json.loads(submitted.err.splitlines()[-1])
    assert error["code"] == UNCONFIRMED
    assert error["pod_id"] == user.pods[0].name
    user.runpod.faults.listing = []
    user.done("cancel", user.run_id, "--yes")
    assert bills(user) == []


@pytest.mark.slow
def test_wrong_pods_are_ended(user: Renting) -> None:
    """Another GPU, fewer of them, a higher price, a pod that never starts: the next candidate."""
    user.write(resources=RESOURCES | {"start_timeout_minutes": 0.02})
    user.runpod.faults.pods = [
        Oddity(gpu="NVIDIA A40"),
        Oddity(price=0.9),
        Oddity(stuck="RUNNING"),
        None,
    ]
    submitted = user.submit()
    submitted.wait()
    whys = [attempt["why"] for attempt in user.record["attempts"]]
    assert whys[:3] == [
        "it has 1 × NVIDIA A40, not 1 × NVIDIA L4",
        "it costs $0.9/h, more than $0.5/h",
        "start_timeout",
    ]
    assert bills(user) == []


@pytest.mark.slow
def test_no_capacity_anywhere(user: Renting) -> None:
    """No free machine: exit 3 with the last reason; a later candidate that is free is taken."""
    everything = [(gpu, cloud) for gpu in (L4, A4000) for cloud in ("SECURE", "COMMUNITY")]
    user.runpod.faults.capacity = dict.fromkeys(everything, 0)
    submitted = user.submit()
    assert submitted.wait() == NO_GPU, submitted.err
    assert "no longer any instances available" in submitted.err
    user.runpod.faults.capacity[A4000, "SECURE"] = 1
    submitted = user.submit()
    assert submitted.wait() == 0, submitted.err
    assert [(p.gpu, p.cloud) for p in user.pods] == [({"id": A4000, "count": 1}, "SECURE")]


@pytest.mark.slow
def test_delete_that_is_refused(user: Renting) -> None:
    """A pod that may not delete itself is ended by the submitter."""
    user.runpod.faults.delete = [Fault(403, times=9, key="pod")]
    user.runpod.faults.action = [Fault(403, times=9, key="pod")]
    submitted = user.submit(**{"deploy.pods.follow:SELF_END_SECONDS": 1.0})
    assert submitted.wait() == 0, submitted.err
    assert bills(user) == []


@pytest.mark.slow
def test_replies_of_a_later_day(user: Renting) -> None:
    """Unknown fields, an unknown status, and pages are all understood."""
    user.runpod.faults.unknown_fields = True
    user.runpod.faults.page_size = 1
    user.runpod.faults.status = "DREAMING"
    submitted = user.submit()
    assert submitted.wait() == 0, submitted.err
    assert bills(user) == []


# --- reap -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reap(user: Renting) -> None:
    """A silent pod of ours goes, a living one and other people's stay."""
    user.write(**LONG)
    first = user.submit("--detach")
    assert first.wait() == 0, first.err
    second = user.submit("--detach")
    assert second.wait() == 0, second.err
    silent, living = user.pods
    user.runpod.kill_host(silent.id, "silent")
    until(lambda: '"step"' in _status(user))
    _age(user, silent)
    options = ("--stale-minutes", "10", "--yes")
    looked = user.start("reap", *options, "--dry-run", "--json", **{"deploy.reap:WATCH_SECONDS": 1})
    assert looked.wait() == 0, looked.err
    assert [pod["name"] for pod in json.loads(looked.out)["found"]] == [silent.name]
    reaped = user.start("reap", *options, **{"deploy.reap:WATCH_SECONDS": 1})
    assert reaped.wait() == 0, reaped.err
    assert (silent.gone, living.gone) == (True, False)


def _age(user: Renting, pod: SimulatedPod) -> None:
    """Make a pod and its run's last heartbeat an hour older."""
    pod.created_at -= timedelta(hours=1)
    document = Document(user.store, f"small/{pod.env['RUN_ID']}/status.json", fenced=False)
    body = document.read() or {}
    old = datetime.now(UTC) - timedelta(hours=1)
    document.write({**body, "heartbeat": old.isoformat()})


# --- before anything is rented --------------------------------------------------------------------


def test_a_dry_run_rents_nothing(user: Renting) -> None:
    """A dry run asks the catalogue, prints candidates and the request, and rents nothing."""
    printed = user.submit("--dry-run", "--print-request")
    assert printed.wait() == 0, printed.err
    assert "NVIDIA L4" in printed.out
    assert '"AWS_SECRET_ACCESS_KEY": "<redacted>"' in printed.out
    assert user.pods == []
    _assert_no_secrets(user, printed.out + printed.err)


def test_nobody_to_confirm(user: Renting) -> None:
    """Without a terminal and --yes nothing is rented, and the flag is named."""
    printed = user.start("submit", user.spec, "--image", user.image, "--env-file", user.variables)
    assert printed.wait() == 2, printed.err
    assert "--yes" in printed.err
    assert user.pods == []


def test_rehearsal_is_binding(user: Renting, tmp_path: Path) -> None:
    """--require-smoke refuses a spec whose last local run did not pass, and takes one that did."""
    local = str(tmp_path / "local")
    refused = user.submit("--require-smoke", "--rehearsals", local)
    assert refused.wait() == 2, refused.err
    assert "no finished run of this content" in refused.err
    trained = user.nursery.start("run", user.spec, "--store", local, "--json")
    assert trained.wait() == 0
    taken = user.submit("--require-smoke", "--rehearsals", local, "--dry-run")
    assert taken.wait() == 0, taken.err
    assert "succeeded" in taken.out


def test_the_accounts_key_never_travels(user: Renting) -> None:
    """Not under another name either."""
    user.variables.write_text(user.variables.read_text() + f"MY_KEY='{user.runpod.key}'\n")
    refused = user.submit()
    assert refused.wait() == 2, refused.err
    assert "MY_KEY" in refused.err
    assert user.runpod.key not in refused.err
    assert user.pods == []


def test_no_key(user: Renting) -> None:
    """Without a key anywhere the error names the three places."""
    del user.environment["RUNPOD_API_KEY"]
    user.environment["HOME"] = str(user.folder)
    refused = user.submit()
    assert refused.wait() == NO_ACCESS, refused.err
    assert "RUNPOD_API_KEY" in refused.err
    assert "config.toml" in refused.err


@pytest.mark.parametrize("command", ["logs", "status", "fetch", "cancel"])
def test_unknown_runs(user: Renting, command: str) -> None:
    """Exit 102, at once."""
    options = ("--yes",) if command == "cancel" else ()
    assert user.done(command, "nowhere", *options).code == NOT_FOUND


def _assert_no_secrets(user: Renting, text: str) -> None:
    """Neither the key nor the store's secret is in a text, nor in what this machine remembers."""
    records = "".join(path.read_text() for path in (user.folder / "state").glob("*"))
    secret = user.variables.read_text().split("'")[3]
    for hidden in (user.runpod.key, secret):
        assert hidden not in text + records
