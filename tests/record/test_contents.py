"""The documents of a run are typed: written as they always were, read from any version."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from job.events import FinalTestTask, GateResult, RunFinished, Worth
from job.record.cancel import CancelRequest, is_cancelled, request_cancel
from job.record.document import Contents, Damaged, Document, seal
from job.record.lease import Lease, LeaseRecord
from job.record.pods import Attempt, PodsRecord, RunRef
from job.record.result import Result, result_of
from job.record.run_index import RunIndex
from job.record.status import Boots, Status
from job.store.directory import DirectoryStore

RUN = "name/run"
KINDS: list[type[Contents]] = [
    *(Boots, CancelRequest, LeaseRecord, PodsRecord, Result, RunIndex, Status),
]
ENDED = RunFinished(
    reason="gates_failed",
    exit_code=6,
    gates=[
        GateResult(gate="a drops", passed=True, measured=0.5, unit="share", epoch=2),
        GateResult(gate="b drops", passed=False, measured=None, unit="share", epoch=2),
        GateResult(gate="a / b", passed=False, measured=float("nan"), unit="ratio", epoch=2),
    ],
    worth={
        "a": Worth(beats=True, skill=0.5, error=0.1),
        "b": Worth(beats=False, why="it has 3 of the 8 samples that are needed"),
    },
    test={
        "a": FinalTestTask(
            **{"loss": 0.1, "loss_original": 2.0, "trivial_loss_original": 4.0, "skill": 0.5},
            **{"skill_error": 0.1, "skill_low": 0.3},
            metrics={"mae": 1.5, "r2": None},
        ),
        "b": FinalTestTask(
            loss=0.1, loss_original=float("nan"), trivial_loss_original=4.0, metrics={}
        ),
    },
    steps=20,
    epochs=2,
    seconds=1.5,
)


def written(store: DirectoryStore, name: str) -> dict[str, Any]:
    """A document's JSON as anybody reads it, without seal and nonce."""
    body = json.loads(store.get(f"{RUN}/{name}").data)
    return {key: value for key, value in body.items() if key not in ("sha256", "nonce")}


def test_a_trainers_status(tmp_path: Path) -> None:
    """Every field that was given is written, null where it is None; no other field is."""
    status = Status(
        phase="training", heartbeat="2026-11-23T12:00:00+00:00", step=3, epoch=0, steps=20,
        progress=0.15, eta_seconds=None, boots=1, lease_epoch=1, losses={"a": 0.5, "b": None},
        checkpoint_step=None,
    )  # fmt: skip
    assert status.body() == {
        "schema": 1, "phase": "training", "heartbeat": "2026-11-23T12:00:00+00:00", "step": 3,
        "epoch": 0, "steps": 20, "progress": 0.15, "eta_seconds": None, "boots": 1,
        "lease_epoch": 1, "losses": {"a": 0.5, "b": None}, "checkpoint_step": None,
    }  # fmt: skip
    assert status.written_at == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert Status(phase="x", heartbeat="no time").written_at is None


def test_a_supervisors_status() -> None:
    """What only a trainer knows is left out."""
    status = Status(phase="stalled", exit_code=1, step=0, epoch=0, error="no step")
    assert status.body() == {
        "schema": 1, "phase": "stalled", "exit_code": 1, "step": 0, "epoch": 0, "error": "no step"
    }  # fmt: skip


def test_a_result_says_what_the_last_event_says() -> None:
    """Gates and worth are the event's, with the flag of what is not finite, and without null."""
    result = result_of(ENDED, "run", "hash", "checkpoints/20-1")
    assert result.body() == {
        "run_id": "run", "spec_hash": "hash", "reason": "gates_failed", "exit_code": 6,
        "gates": [
            {"event": "gate", "gate": "a drops", "passed": True, "measured": 0.5, "unit": "share",
             "epoch": 2},
            {"event": "gate", "gate": "b drops", "passed": False, "unit": "share", "epoch": 2},
            {"event": "gate", "gate": "a / b", "passed": False, "measured": None,
             "measured_nonfinite": True, "unit": "ratio", "epoch": 2},
        ],
        "worth": {
            "a": {"beats": True, "skill": 0.5, "error": 0.1},
            "b": {"beats": False, "why": "it has 3 of the 8 samples that are needed"},
        },
        "test": {
            "a": {"loss_original": 2.0, "trivial_loss_original": 4.0, "skill": 0.5,
                  "skill_error": 0.1, "metrics": {"mae": 1.5, "r2": None}},
            "b": {"loss_original": None, "trivial_loss_original": 4.0, "metrics": {}},
        },
        "control": False, "steps": 20, "epochs": 2, "seconds": 1.5,
        "checkpoint": "checkpoints/20-1",
    }  # fmt: skip
    assert RunFinished.model_fields.keys() - {"event"} <= Result.model_fields.keys()


def test_a_run_index_holds_the_same_result() -> None:
    """The index of a finished run holds the body of `result.json`."""
    index = RunIndex(epoch=1, spec_hash="hash", fences={1: 7}).ended("run", ENDED)
    assert index.finished is not None
    assert index.body() == {
        "schema": 1, "epoch": 1, "spec_hash": "hash", "checkpoints": [], "best": None,
        "fences": {"1": 7}, "finished": index.finished.body(), "about": None,
    }  # fmt: skip
    assert RunIndex.parse(json.loads(json.dumps(index.body())), "there") == index


def test_a_lease_and_a_cancellation(tmp_path: Path) -> None:
    """Both are written with a nonce, and read back."""
    store = DirectoryStore(tmp_path)
    lease = Lease(store, RUN, 60)
    lease.acquire(0, take_over=False)
    assert written(store, "lease.json").keys() == {
        *("schema", "epoch", "machine", "process", "seconds", "beats", "released"),
    }
    found = LeaseRecord.read(store, RUN)
    assert found is not None
    assert (found.epoch, found.seconds, found.released) == (1, 60.0, False)
    assert len(found.nonce) == 32
    assert not is_cancelled(store, RUN)
    request_cancel(store, RUN)
    assert is_cancelled(store, RUN)
    assert written(store, "cancel.json").keys() == {"schema", "at"}


def test_pods_and_boots(tmp_path: Path) -> None:
    """Every field is written, null if it is unknown; times keep their zone."""
    at = datetime(2026, 11, 23, 12, tzinfo=UTC)
    attempt = Attempt(number=1, pod_name="evengrad-1", gpu="L4", cloud="SECURE", intended=at)
    record = PodsRecord(
        name="name", run_id="run", store="s3://b", spec_hash="h", image="i", deadline=at,
        attempts=(attempt,),
    )  # fmt: skip
    assert record.body() == {
        "name": "name", "run_id": "run", "store": "s3://b", "spec_hash": "h", "spec_file": None,
        "image": "i", "registry": None, "deadline": "2026-11-23T12:00:00Z",
        "attempts": [
            {"number": 1, "pod_name": "evengrad-1", "gpu": "L4", "cloud": "SECURE",
             "intended": "2026-11-23T12:00:00Z", "pod": None, "cost": None, "created": None,
             "ended": None, "why": ""}
        ],
    }  # fmt: skip
    Document(DirectoryStore(tmp_path), f"{RUN}/pods.json").write(record.body())
    for read in (PodsRecord.read, PodsRecord.read_or_none):
        assert read(DirectoryStore(tmp_path), RUN) == record
    assert Boots(step=3, boots=2).body() == {"schema": 1, "step": 3, "boots": 2, "pod": None}


def test_whose_pod_it_is() -> None:
    """A run owns the pods of its own name and number, not those of a run whose id begins alike."""
    run = RunRef(name="job", run_id="a", store="s3://b")
    names = ["evengrad-job-a-1", "evengrad-job-a-12", "evengrad-job-a-b-1", "evengrad-job-a-1-1",
             "evengrad-job-a-", "evengrad-job-a-1x", "x-evengrad-job-a-1"]  # fmt: skip
    assert [name for name in names if run.owns(name, {})] == names[:2]
    variables = {"EVENGRAD_NAME": "job", "RUN_ID": "a"}
    assert run.owns("evengrad-job-a-1", variables)
    assert not run.owns("evengrad-job-a-1", variables | {"RUN_ID": "other"})


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Status, {"phase": "failed", "exit_code": 1, "error": "it ended"}),
        (Boots, {"boots": 1}),
        (Result, {"reason": "succeeded", "exit_code": 0}),
        (RunIndex, {"epoch": 2, "spec_hash": ""}),
    ],
)
def test_older_and_newer_documents(kind: type[Contents], body: dict[str, Any]) -> None:
    """What an older version left out has a default; what a newer one adds is ignored."""
    older = kind.parse(body, "there")
    assert kind.parse({**body, "schema": 2, "invented": [1]}, "there") == older


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [{}, {"schema": 1}, {"phase": [], "epoch": "x", "boots": None}])
def test_a_missing_or_wrong_field(
    tmp_path: Path, kind: type[Contents], body: dict[str, Any]
) -> None:
    """Each kind refuses it as damage, in one line with the document and the field."""
    store = DirectoryStore(tmp_path)
    store.put(kind.key(RUN), seal(body))
    with pytest.raises(Damaged) as fault:
        kind.read(store, RUN)
    assert str(fault.value).startswith(f"{store.url}/{kind.key(RUN)} is damaged: ")
    assert "\n" not in str(fault.value)
    assert kind.read_or_none(store, RUN) is None


@pytest.mark.parametrize("kind", KINDS)
def test_no_document(tmp_path: Path, kind: type[Contents]) -> None:
    """None is read where nothing was written."""
    assert kind.read(DirectoryStore(tmp_path), RUN) is None
    assert kind.read_or_none(DirectoryStore(tmp_path), RUN) is None


def test_documents_load_neither_torch_nor_boto3() -> None:
    """A command that reads a run's documents in a directory starts fast."""
    modules = ", ".join(f"job.record.{m}" for m in ("cancel", "lease", "pods", "status"))
    code = f"import sys, {modules}, job.record.result, job.record.run_index\n"
    code += "print({'torch', 'numpy', 'boto3'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
