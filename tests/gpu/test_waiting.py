"""What makes the host wait for the GPU: nothing in a training step, nothing in a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from job.checkpoint.snapshot import Snapshot, file_of
from job.record.layout import MODEL, STATE
from job.train.trainer import Trainer
from tests.gpu.devices import on_cuda
from tests.run.test_kill import NETWORKS
from tests.support.tiny_job import job, write
from tests.train.test_step import Calls, NoSync

WAITS = {"cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaStreamSynchronize"}
"""CUDA's calls that wait, as its profiler names them."""
WATCHED = "watched"
"""A range's name: the profiler itself waits for the device at its end."""
STEPS = 3
DEVICES = pytest.mark.parametrize("device", ["cpu", on_cuda("cuda")])


@contextmanager
def without_a_wait(device: str) -> Iterator[None]:
    """Fails if the host waits for the device in it; on a CPU, if it would wait for a GPU."""
    with on_gpu() if device == "cuda" else on_cpu():
        yield


@contextmanager
def on_gpu() -> Iterator[None]:
    """By the profiler, and by CUDA's debug mode, which raises."""
    kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with profile(activities=kinds) as seen, record_function(WATCHED):
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    events = seen.events() or []
    ranges = [e.time_range for e in events if e.name == WATCHED and e.device_type == DeviceType.CPU]
    (here,) = ranges
    names = {e.name for e in events if here.start <= e.time_range.start <= here.end}
    assert any(name.startswith("cudaLaunch") for name in names)
    assert not WAITS & names


@contextmanager
def on_cpu() -> Iterator[None]:
    """By the calls that read a tensor's value."""
    with NoSync(), Calls() as calls:
        yield
    assert calls.names
    assert not [name for name in calls.names if "_local_scalar_dense" in name]


@pytest.mark.slow
@DEVICES
def test_the_watch_sees_a_wait(device: str) -> None:
    """Reading a value is noticed."""
    x = torch.ones(3, device=device)
    refused = RuntimeError if device == "cuda" else AssertionError
    with pytest.raises(refused), without_a_wait(device):
        x.sum().item()


CASES = [
    pytest.param("cpu", "lstm", {}, id="cpu-lstm"),
    *(on_cuda("cuda", name, {}, id=f"cuda-{name}") for name in NETWORKS),
    on_cuda("cuda", "lstm", {"train.precision": "fp16"}, id="cuda-lstm-fp16"),
    on_cuda("cuda", "lstm", {"train.clip": 1.0, "train.ema": {"decay": 0.9}}, id="cuda-lstm-clip"),
]


@pytest.mark.parametrize(("device", "network", "edits"), CASES)
def test_no_step_waits_for_the_device(
    tmp_path: Path, device: str, network: str, edits: dict[str, Any]
) -> None:
    """From the batch's copy to the ledger, between two fetches."""
    write(tmp_path)
    edits = NETWORKS[network] | edits | {"train.device": device, "log.audit_every": 0}
    training = Trainer(*job(tmp_path, edits))
    each = training._rest_of_epoch()
    training._step(next(each))  # libraries begin in the first one
    with without_a_wait(device):
        for batch in islice(each, STEPS):
            training._step(batch)
    assert training.at.step == 1 + STEPS


def state(device: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "model.weight": torch.randn(500, 300, device=device),
        "optimizer.0.exp_avg": torch.randn(500, 300, device=device),
        "optimizer.0.step": torch.tensor(7.0, device=device),
        "generator.cpu": torch.get_rng_state(),
    }


@DEVICES
def test_a_snapshot_is_of_its_moment_and_costs_no_wait(device: str) -> None:
    """Its files hold the state of then, though training goes on at once; on a GPU its memory is
    pinned, without which the copy would wait."""
    tensors = state(device)
    snapshot = Snapshot(tensors)
    wanted = {
        file: safetensors.torch.save({n: t.cpu() for n, t in tensors.items() if file_of(n) == file})
        for file in (MODEL, STATE)
    }
    with without_a_wait(device):
        snapshot.take(tensors, {})
        for tensor in tensors.values():
            tensor.zero_()
    files = snapshot.files()
    assert {file: bytes(data) for file, data in files.items()} == wanted
    for data in files.values():
        assert torch.frombuffer(data, dtype=torch.uint8).is_pinned() == (device == "cuda")
