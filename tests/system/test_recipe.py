"""The claims of the shipped jobs, on real prices: the starved task learns, and all have skill."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from job.data.dataset import load
from job.diagnose.diagnose import diagnose
from job.events import Epoch, GateResult
from job.spec.read import read_spec
from job.train.trainer import Interrupted, Trainer
from tests.bench.verdict import passing, solve_all

ROOT = Path(__file__).parents[2]
EPOCHS = 5


def trained(path: Path) -> tuple[float, list[GateResult]]:
    """Countdown's drop by epoch 5, and the gates read by then.

    The loop is left there, so that a schedule is the one of the whole run.
    """
    spec = read_spec(path)
    training = Trainer(spec, load(spec, path.parent))
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


@pytest.mark.slow
def test_the_mended_trainer_passes_the_acceptance_gate() -> None:
    """Seed 0 of docker/mended.json loses over 20 % of countdown's loss by epoch 5, and its gate
    says so."""
    drop, gates = trained(ROOT / "docker/mended.json")
    assert drop > 0.2
    assert [(gate.passed, gate.epoch) for gate in gates] == [(True, EPOCHS)]


@pytest.mark.slow
def test_the_failing_trainer_fails_it() -> None:
    """Seed 0 of docker/failing.json loses under 5 % by epoch 5: the report's failure is there."""
    drop, gates = trained(ROOT / "docker/failing.json")
    assert drop < 0.05
    assert [(gate.passed, gate.epoch) for gate in gates] == [(False, EPOCHS)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spec.json", "docker/smoke.json"])
def test_every_task_has_validation_skill(name: str) -> None:
    """Seed 0 passes every gate: each task surely beats the trivial prediction on new windows."""
    spec = read_spec(ROOT / name)
    training = Trainer(spec, load(spec, (ROOT / name).parent))
    training.run(lambda event: None, lambda: None, lambda: False)
    assert all(gate.passed for gate in training.verdict.final(spec.train.epochs))
    assert set(training.at.worth) == set(spec.task_names)
    assert all(task.beats for task in training.at.worth.values())


@pytest.mark.slow
def test_noise_passes_no_gate() -> None:
    """Of 40 problems in which nothing can be learned, at most 2 have a task with sure validation
    skill; of 10 learnable ones on arrays, all do."""
    rule = "validation, beyond its error"
    assert passing(solve_all(range(40), learnable=False, workers=2), rule) <= 2
    assert passing(solve_all(range(0, 20, 2), learnable=True, workers=2), rule) == 10


@pytest.mark.slow
def test_the_diagnosis_of_the_failing_trainer() -> None:
    """It names countdown's causes: too far to travel, a saturated loss, and starved."""
    path = ROOT / "docker/failing.json"
    spec = read_spec(path)
    found = diagnose(spec, load(spec, path.parent))
    causes = [f.mechanism for f in found.findings if f.task == "countdown"]
    assert causes == ["travel_budget", "saturated_loss", "starved"]
    fixed = [str(edit) for edit in found.edits]
    assert '$.tasks[3].transform = {"kind": "standardize"}' in fixed
    assert any(edit.startswith("$.balance") for edit in fixed)
