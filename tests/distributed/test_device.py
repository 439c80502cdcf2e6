"""The device of a spec: what it cannot do is known before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from job.cli.run import _join_ranks
from job.distributed.device import available_device, unsupported_precision
from job.distributed.ranks import ALONE
from job.errors import InputError
from job.spec import Train
from job.spec.read import read_spec
from tests.support.command import here, warm_job
from tests.support.tiny_job import write
from tests.support.warm_process import Nursery

CPU = torch.device("cpu")


@contextmanager
def raising(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Iterator[None]:
    """Let every LSTM fail as a kernel does that is not there."""

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.LSTM, "forward", fail)
        yield


def train(**fields: Any) -> Train:
    return Train.model_validate({"epochs": 1, "batch_size": 1, **fields})


def test_every_device_has_fp32() -> None:
    """fp32 needs no trial."""
    assert not unsupported_precision(CPU, "fp32")
    assert available_device(train(device="cpu")) == CPU


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of the switch
def test_the_trial_is_a_step_of_an_lstm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A precision is supported if a small LSTM trains in it, and not if its kernel is missing."""
    with torch.backends.mkldnn.flags(enabled=False):
        assert not unsupported_precision(CPU, "bf16")
    missing = RuntimeError("could not create a primitive descriptor for the LSTM forward")
    with raising(monkeypatch, missing):
        assert unsupported_precision(CPU, "bf16")


def test_ranks_join_before_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank has its own GPU only once it has joined: until then nothing is computed."""
    spec = write(tmp_path, {"train.precision": "bf16"})
    with raising(monkeypatch, AssertionError("an LSTM on a device that is not chosen")):
        assert _join_ranks(read_spec(spec)) == ALONE


def test_a_failing_device_is_not_blamed_on_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without memory raises its own error, which another try may not meet."""
    with (
        raising(monkeypatch, RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        pytest.raises(RuntimeError, match="allocate"),
    ):
        unsupported_precision(CPU, "bf16")


def test_the_trial_leaves_the_random_state() -> None:
    """The trial draws no random number that training would draw."""
    before = torch.get_rng_state()
    unsupported_precision(CPU, "bf16")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_machine_without_cuda() -> None:
    """Without CUDA a spec that needs it is refused, by the field to edit."""
    with pytest.raises(InputError, match=r'^\$\.train\.device: found "cuda"; torch finds no CUDA'):
        available_device(train(device="cuda"))
    with pytest.raises(InputError, match=r'^\$\.train\.precision: found "fp16"; CPUs have no LSTM'):
        available_device(train(precision="fp16"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_commands_refuse_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`validate` and `run` end with exit code 2 and one line; nothing is written."""
    write(tmp_path, {"train.precision": "fp16"})
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for command in ("validate", "run"):
        code, out, err = here(capsys, command, "spec.json")
        assert (code, out) == (2, "")
        assert err.startswith('$.train.precision: found "fp16"; CPUs have no LSTM in')
        assert err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.slow
def test_bf16_without_a_kernel(tmp_path: Path, nursery: Nursery) -> None:
    """`validate` and `run` agree with the trial on whether this CPU trains in bf16."""
    write(tmp_path, {"train.precision": "bf16", "train.epochs": 1})
    code = 2 if unsupported_precision(CPU, "bf16") else 0
    for command in ("validate", "run"):
        ended = warm_job(nursery, tmp_path, command, "spec.json")
        assert ended.returncode == code, ended.stderr
        line = '$.train.precision: found "bf16"; this machine\'s CPU has no LSTM in bf16; '
        assert ended.stderr.startswith(line) == (code == 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_spec_for_a_rented_gpu_is_valid_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A spec with resources trains on a rented machine: `validate` does not look at this one."""
    rent = {"gpu": ["NVIDIA L4"], "max_price_per_hour": 1, "max_hours": 1}
    spec = write(tmp_path, {"train.precision": "fp16", "resources": rent})
    assert here(capsys, "validate", spec)[0] == 0
    assert here(capsys, "run", spec, "--store", tmp_path / "runs")[0] == 2
