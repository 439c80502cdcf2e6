"""`job diagnose` when Ctrl-C or SIGTERM comes before or after the diagnosis."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job.diagnose import diagnose, verify
from job.diagnose.case import Finding
from job.diagnose.diagnose import Diagnosis
from job.diagnose.probe import probe, probe_inputs
from job.errors import Fault, InputError
from job.spec import JobSpec
from job.spec.patch import Edit
from job.train.trainer import Trainer
from tests.support.command import here
from tests.support.tiny_job import write


def interrupted(*_: Any, **__: Any) -> Any:
    """Ends as Ctrl-C does."""
    raise KeyboardInterrupt


def stopped(*_: Any, **__: Any) -> Any:
    """Gets the signal of a container that is stopped."""
    signal.raise_signal(signal.SIGTERM)
    raise AssertionError("it went on")


@pytest.mark.parametrize("end", [interrupted, stopped])
def test_before_anything_was_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: Callable[..., Any],
) -> None:
    """Exit code 75, and a line that says so."""
    monkeypatch.setattr(diagnose, "diagnose", end)
    code, out, err = here(capsys, "diagnose", write(tmp_path))
    assert (code, out, err) == (75, "", "interrupted before anything was measured\n")


def without_data(*_: Any, **__: Any) -> Any:
    """Ends as where the data is not there any more."""
    raise InputError([Fault("small.npz", "no file", "the file must exist", "supply the file")])


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (interrupted, "it was interrupted"),
        (without_data, "small.npz: found no file; the file must exist; supply the file"),
    ],
)
def test_while_the_prediction_is_verified(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: Callable[..., Any],
    why: str,
) -> None:
    """What was found is printed, and the fixed spec is written."""

    def found(spec: JobSpec, data: Any, watch: Any, cores: int) -> Diagnosis:
        short = spec.model_copy(update={"train": spec.train.model_copy(update={"epochs": 1})})
        probed = probe(Trainer(*probe_inputs(short, data)))
        edits = [Edit(("seed",), 5)]
        finding = Finding("clip", None, "measured", "set it", tuple(edits))
        return Diagnosis([finding], edits, probed, probed, None, 2, None)

    monkeypatch.setattr(diagnose, "diagnose", found)
    monkeypatch.setattr(verify, "verify", end)
    spec, fix = write(tmp_path), tmp_path / "fixed.json"
    code, out, err = here(capsys, "diagnose", spec, "--json", "--verify", "--fix", fix)
    assert (code, json.loads(out)["findings"][0]["mechanism"]) == (7, "clip")
    assert json.loads(fix.read_text())["seed"] == 5
    assert err == f"nothing was verified: {why}\nwrote {fix}\n"
