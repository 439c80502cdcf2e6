"""The average of the network: what it is, and that it is what a run evaluates and keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from job.checkpoint.snapshot import file_of
from job.record.layout import MODEL
from job.train.evaluate import evaluate
from job.train.updates.average import Average
from tests.support.tiny_job import State, Trained, job, weights, write

EDITS = {"train.ema": {"decay": 0.6}, "optimizer.lr": 0.1, "checkpoint.every_steps": 1}


def test_the_average_is_that_of_the_steps(tmp_path: Path) -> None:
    """It is the weighted sum of all states that its definition says, and the live parameters are
    those of a run without it."""
    write(tmp_path)
    run = Trained(*job(tmp_path, EDITS))
    start = weights(run.training)
    assert run.run()
    plain = Trained(*job(tmp_path, {"optimizer.lr": 0.1}))
    assert plain.run()
    expected, states = start, {each.step: each for each in run.saved}
    for step, state in sorted(states.items()):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = {
            name: decay * was.double() + (1 - decay) * state.tensors[f"model.{name}"].double()
            for name, was in expected.items()
        }
    for name, average in expected.items():
        kept = State(run.training).tensors[f"ema.{name}"]
        torch.testing.assert_close(kept.double(), average, rtol=1e-5, atol=1e-6)
        assert file_of(f"ema.{name}") == MODEL
    assert all(map(torch.equal, weights(run.training).values(), weights(plain.training).values()))


def test_the_average_is_evaluated(tmp_path: Path) -> None:
    """An epoch's validation loss is that of a network with the averages as parameters."""
    write(tmp_path)
    run = Trained(*job(tmp_path, EDITS))
    assert run.run()
    training = run.training
    live = weights(training)
    for name, tensor in State(training).tensors.items():
        if name.startswith("ema."):
            training.model.get_parameter(name.removeprefix("ema.")).data.copy_(tensor)
    split = training.data.validation
    found = evaluate(training.model, training.losses, split, training.device)
    reported = [task.val_loss for task in run.epochs[-1].tasks.values()]
    assert found.transformed == reported
    training.model.load_state_dict(live, strict=False)
    live_loss = evaluate(training.model, training.losses, split, training.device)
    assert live_loss.transformed != reported


def test_a_skipped_step_leaves_it() -> None:
    """Nothing moves in a step whose update was skipped; running statistics are averaged too."""
    norm = torch.nn.BatchNorm1d(3)
    average = Average(torch.nn.Sequential(norm), 0.9)
    norm(torch.randn(8, 3))
    before = {name: tensor.clone() for name, tensor in average.tensors.items()}
    average.update(1, torch.tensor(1.0))
    assert all(torch.equal(average.tensors[name], was) for name, was in before.items())
    average.update(1, torch.tensor(0.0))
    assert norm.running_mean is not None
    expected = 9 / 11 * norm.running_mean
    torch.testing.assert_close(average.tensors["0.running_mean"], expected)
    with average.in_place():
        torch.testing.assert_close(norm.running_mean, expected)
    assert not torch.allclose(norm.running_mean, expected)


class Centred(torch.nn.Module):
    """Subtracts a running mean, which is another tensor after each batch."""

    running_mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Centre a batch."""
        self.running_mean = 0.5 * self.running_mean + 0.5 * x.mean(0)
        return x - self.running_mean


def test_a_norm_of_ones_own() -> None:
    """A statistic without its variance is averaged, also where its tensor is another one later."""
    norm = Centred()
    average = Average(torch.nn.Sequential(norm), 0.9)
    norm(torch.ones(8, 3))
    average.update(1, torch.tensor(0.0))
    with average.in_place():
        assert norm.running_mean.tolist() == pytest.approx([9 / 22] * 3)
    assert norm.running_mean.tolist() == [0.5] * 3
