"""A run that an older version began, before job/ was laid out in packages, goes on."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import Line, Run
from tests.support.warm_process import Nursery

OLD = Path(__file__).with_name("old_store.tar.gz")
"""spec.json, small.npz, and store/ with the run small/begun, interrupted after SAVED of STEPS."""
SAVED, STEPS = 21, 40


@pytest.mark.slow
def test_it_goes_on(nursery: Nursery, tmp_path: Path) -> None:
    """Resumed from its checkpoint it finishes; its history has no gap, and the steps after the
    resume have the losses of a run that was never interrupted."""
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    spec = tmp_path / "spec.json"
    as_it_was(spec)
    begun = Run(nursery, spec, str(tmp_path / "store"), "begun")
    resumed = begun.start()
    assert resumed.wait() == 0, resumed.err
    assert resumed.events[0]["resumed_from"] == SAVED
    assert not [e for e in resumed.events if e.get("kind") == "spec_damaged"]
    whole = Run(nursery, spec, str(tmp_path / "whole"), "begun")
    assert whole.start().wait() == 0
    everything = begun.history(superseded=True)
    assert [e["seq"] for e in everything] == list(range(1, len(everything) + 1))
    assert [e["step"] for e in steps(begun)] == list(range(1, STEPS + 1))
    result = begun.result()
    assert result is not None
    assert result["reason"] == "succeeded"
    # The steps before were taken on another machine, whose arithmetic may round differently.
    assert numbers(steps(begun)[SAVED:]) == pytest.approx(numbers(steps(whole)[SAVED:]), rel=1e-4)


def test_with_its_old_spec_it_is_refused(nursery: Nursery, tmp_path: Path) -> None:
    """Defaults that have changed since: each is named, with what the run began with."""
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    refused = Run(nursery, tmp_path / "spec.json", str(tmp_path / "store"), "begun").start()
    assert refused.wait() == 2
    lines = refused.err.splitlines()
    assert [line.partition("; set it back")[0] for line in lines] == [
        '$.data.scale: found "standardize"; the run began with "none"',
        '$.data.split: found "random"; the run began with "tail"',
        "$.train.evaluate: found null; the run began with 8192",
    ]


def as_it_was(spec: Path) -> None:
    """Write into the spec what older versions did where it says nothing."""
    content = json.loads(spec.read_text())
    content["data"] |= {"scale": "none", "split": "tail"}
    content["train"]["evaluate"] = 8192
    spec.write_text(json.dumps(content))


def steps(run: Run) -> list[Line]:
    return [event for event in run.history() if event["event"] == "step"]


def numbers(events: list[Line]) -> list[float]:
    """All losses and gradient norms of all tasks, in order."""
    names = ("loss", "loss_original", "weight", "grad_norm")
    tasks: list[dict[str, Any]] = [t for event in events for t in event["tasks"].values()]
    return [task[name] for task in tasks for name in names]
