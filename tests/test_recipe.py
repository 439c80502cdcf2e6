"""The claim of the product, on real prices: the starved task learns under the shipped spec."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from job.data import load
from job.events import Epoch, GateResult
from job.read_spec import read_spec
from job.train import Interrupted, Training

ROOT = Path(__file__).parents[1]
EPOCHS = 5


def trained(path: Path) -> tuple[float, list[GateResult]]:
    """Countdown's drop by epoch 5, and the gates read by then.

    The loop is left there, so that a schedule is the one of the whole run.
    """
    spec = read_spec(path)
    training = Training(spec, load(spec, path.parent))
    epochs: list[Epoch] = []
    gates: list[GateResult] = []

    def emit(event: BaseModel) -> None:
        if isinstance(event, Epoch):
            epochs.append(event)
        elif isinstance(event, GateResult):
            gates.append(event)

    # `stopping` is asked after every step: one step into epoch 6 the run ends.
    with pytest.raises(Interrupted):
        training.run(emit, save=lambda: None, stopping=lambda: len(epochs) == EPOCHS)
    return epochs[-1].tasks["countdown"].drop, gates


def test_the_default_passes_the_acceptance_gate() -> None:
    """Seed 0 of spec.json loses over 20 % of countdown's loss by epoch 5, and its gate says so."""
    drop, gates = trained(ROOT / "spec.json")
    assert drop > 0.2
    assert [(gate.passed, gate.epoch) for gate in gates] == [(True, EPOCHS)]


def test_the_failing_trainer_fails_it() -> None:
    """Seed 0 of docker/failing.json loses under 5 % by epoch 5: the report's failure is there."""
    drop, gates = trained(ROOT / "docker/failing.json")
    assert drop < 0.05
    assert [(gate.passed, gate.epoch) for gate in gates] == [(False, EPOCHS)]
