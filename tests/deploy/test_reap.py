"""Reap ends what evengrad rented, and nothing that only bears a similar name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.reap import Case, _judge
from deploy.runpod.models import Pod
from job.record.document import seal
from job.store import open_store

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def exited(name: str, **variables: str) -> Pod:
    created = (NOW - timedelta(hours=1)).isoformat()
    fields = {"id": name, "name": name, "status": "EXITED", "createdAt": created}
    return Pod.model_validate({**fields, "env": variables})


def test_a_name_alone_ends_no_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped pod with our prefix is listed and left, unless its variables or a record of this
    machine show that evengrad rented it; one that evengrad rented is ended."""
    monkeypatch.setenv("EVENGRAD_STATE", str(tmp_path / "state"))
    store = str(tmp_path / "store")
    foreign = exited("evengrad-notebook")
    ours = exited("evengrad-jade-r1-1", EVENGRAD_STORE=store, EVENGRAD_NAME="jade", RUN_ID="r1")
    doomed, unknown = _judge([foreign, ours], NOW, timedelta(minutes=30))
    assert [verdict.pod.id for verdict in doomed] == [ours.id]
    assert [verdict.pod.id for verdict in unknown] == [foreign.id]


def test_a_young_pod_without_a_date_is_not_silent(tmp_path: Path) -> None:
    """If RunPod does not say when a pod was made, the record says when it was asked for."""
    store = open_store(tmp_path / "store")
    attempt = {"number": 1, "pod_name": "evengrad-jade-r1-1", "gpu": "L4", "cloud": "SECURE"}
    for age, silent in ((5, False), (45, True)):
        intended = (NOW - timedelta(minutes=age)).isoformat()
        body = {"name": "jade", "run_id": "r1", "store": store.url, "spec_hash": "", "image": "i"}
        attempts = [{**attempt, "intended": intended}]
        store.put("jade/r1/pods.json", seal({**body, "deadline": intended, "attempts": attempts}))
        env = {"EVENGRAD_STORE": store.url, "EVENGRAD_NAME": "jade", "RUN_ID": "r1"}
        fields = {"id": "p", "name": "evengrad-jade-r1-1", "status": "RUNNING", "env": env}
        case = Case(Pod.model_validate(fields))
        assert case.is_silent(NOW, timedelta(minutes=30)) is silent
