"""Trainings on a GPU: repeated and resumed bit by bit, in every precision, through overflows."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from job.distributed import device as devices
from job.events import Alarm
from tests.gpu.devices import on_cuda
from tests.run.test_kill import NETWORKS
from tests.support.command import environment
from tests.support.command import job as command
from tests.support.hold import Hold
from tests.support.runs import SPEC, Run, assert_undisturbed, undisturbed
from tests.support.tiny_job import STEPS, State, Trained, job, write
from tests.support.warm_process import Nursery, until

MIDDLE = STEPS + 2
"""A step within the second epoch."""
SAVED = {"checkpoint.every_steps": 1, "balance": {"kind": "gradient_norm"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data is."""
    return write(tmp_path_factory.mktemp("small")).parent


@pytest.fixture
def any_precision(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a CPU train in every precision, by torch's own kernels, slow as they are."""
    with torch.backends.mkldnn.flags(enabled=device == "cuda"):
        if device == "cpu":
            monkeypatch.setattr(devices, "unsupported_precision", lambda *_: False)
        yield


def trained(folder: Path, device: str, edits: dict[str, Any]) -> Trained:
    """A job that has not begun, on a device. fp16 is refused for "cpu", not for "auto"."""
    return Trained(*job(folder, edits | {"train.device": "cuda" if device == "cuda" else "auto"}))


def assert_same(one: State, other: State) -> None:
    assert one.step == other.step
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name


CASES = [
    pytest.param("cpu", "lstm", "fp32", id="cpu-lstm-fp32"),
    *(on_cuda("cuda", name, "fp32", id=f"cuda-{name}-fp32") for name in NETWORKS),
    *(on_cuda("cuda", "lstm", low, id=f"cuda-lstm-{low}") for low in ("bf16", "fp16")),
]


@pytest.mark.parametrize(("device", "network", "precision"), CASES)
def test_a_training_repeats_itself_and_resumes_bit_by_bit(
    folder: Path, device: str, network: str, precision: str
) -> None:
    """Every network has deterministic kernels for all that it does, or PyTorch would raise: a
    second training, and one that goes on from a copy of the state within an epoch, end alike."""
    edits = SAVED | NETWORKS[network] | {"train.precision": precision}
    whole = trained(folder, device, edits)
    assert torch.are_deterministic_algorithms_enabled()
    assert whole.run()
    again = trained(folder, device, edits)
    assert again.run()
    assert_same(whole.saved[-1], again.saved[-1])
    kept = next(state for state in whole.saved if state.step == MIDDLE)
    rest = trained(folder, device, edits)
    torch.manual_seed(1)  # whatever the generators were at
    kept.into(rest.training)
    assert rest.run()
    assert_same(whole.saved[-1], rest.saved[-1])
    assert whole.training.device.type == device


LEARNS = {"train.epochs": 6, "optimizer.lr": 0.02}


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # oneDNN's switch warns
@pytest.mark.usefixtures("any_precision")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("device", ["cpu", on_cuda("cuda")])
def test_low_precision_learns(folder: Path, device: str, precision: str) -> None:
    """The first losses are those of fp32 to the precision's digits, and every task's loss falls."""
    low = trained(folder, device, LEARNS | {"train.precision": precision})
    assert low.run()
    exact = trained(folder, device, LEARNS)  # draws the same random numbers from here on
    exact.run(stop_at=1)
    for name, task in low.steps[0].tasks.items():
        assert task.loss == pytest.approx(exact.steps[0].tasks[name].loss, rel=0.02, abs=0.01)
    assert all(task.drop > 0 for task in low.epochs[-1].tasks.values())


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # oneDNN's switch warns
@pytest.mark.usefixtures("any_precision")
@pytest.mark.parametrize("device", ["cpu", on_cuda("cuda")])
def test_an_overflow_in_fp16_costs_steps_and_nothing_else(folder: Path, device: str) -> None:
    """A loss whose scaled gradient is beyond fp16's numbers skips steps, with an alarm each, from
    the first until the scale is small enough; then most steps count, and all weights are finite."""
    heavy = {"balance": {"kind": "fixed", "weights": {"level": 1e4}}, "train.precision": "fp16"}
    run = trained(folder, device, LEARNS | heavy)
    assert run.run()
    skipped = [step.step for step in run.steps if step.skipped]
    assert skipped[:3] == [1, 2, 3]
    assert len(skipped) < len(run.steps) / 2
    alarms = [e for e in run.events if isinstance(e, Alarm) and e.kind == "overflow"]
    assert [alarm.step for alarm in alarms] == skipped
    assert all(p.isfinite().all() for p in run.training.stepper.parameters())


HELD = (
    "import sys; from job.cli.app import main; from tests.support.hold import install; "
    "install(sys.argv.pop(1), int(sys.argv.pop(1))); main()"
)
"""`python -m job` that waits after a step, in a new process: CUDA does not survive a fork."""


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), on_cuda("cuda")])
def test_a_killed_process_is_gone_on_with_bit_by_bit(
    nursery: Nursery, tmp_path: Path, device: str
) -> None:
    """Another process ends the run as if nothing had been: weights, state, losses of each step."""
    reference = undisturbed(nursery, tmp_path, SPEC | {"train.device": device})
    run, hold = Run(nursery, reference.spec, str(tmp_path / "killed")), Hold(tmp_path)
    arguments = ["run", str(run.spec), "--store", run.url, "--run-id", run.run_id, "--json"]
    held = [sys.executable, "-c", HELD, str(hold.place), str(MIDDLE), *arguments]
    with subprocess.Popen(held, stdout=subprocess.DEVNULL, env=environment()) as process:
        until(lambda: hold.is_reached() or process.poll() is not None)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    ended = command(tmp_path, *arguments)
    assert ended.returncode == 0, ended.stderr
    assert_undisturbed(run, reference)
