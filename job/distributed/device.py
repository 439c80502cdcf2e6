"""The device that a spec asks for, and this process's settings for it."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Literal

import torch

from job.distributed.ranks import Lost
from job.errors import Fault, InputError
from job.spec import Train

Precision = Literal["fp32", "bf16", "fp16"]

OUT_OF_MEMORY = "can't allocate memory"
"""Part of the error text of torch's CPU allocator, whose errors have no type of their own."""
FAULTS = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "NCCL error")
"""Parts of error texts of CUDA's libraries."""


def prepare_device(train: Train) -> torch.device:
    """Set this process's threads and determinism; return the device to train on.

    Raises InputError as `available_device` does.
    """
    if train.deterministic:
        # cuBLAS reads this when it starts, which may be when the precision is tried; without it
        # deterministic matrix products raise.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = available_device(train)
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    # As torch.use_deterministic_algorithms, which first imports PyTorch's compiler: 3 s.
    torch.set_deterministic_debug_mode("error" if train.deterministic else "default")
    # No code here reads memory before it is written; filling it would cost 5 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a property
    torch.backends.cudnn.deterministic = train.deterministic
    _keep_memory()
    return device


def wanted_device(train: Train) -> torch.device:
    """The device that a spec names; raises InputError if this machine has none.

    It is only named: which GPU "cuda" is may be chosen later.
    """
    wanted = train.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        rule, remedy = "torch finds no CUDA device here", 'set it to "auto" or "cpu"'
        raise InputError([Fault("$.train.device", '"cuda"', rule, remedy)])
    return torch.device(wanted)


def available_device(train: Train) -> torch.device:
    """The device of this machine that a spec trains on.

    Raises InputError if the machine has no such device, or the device lacks the precision.
    """
    device = wanted_device(train)
    if unsupported_precision(device, train.precision):
        where, found = "$.train.precision", f'"{train.precision}"'
        if train.precision == "fp16" and device.type == "cpu":
            rule = "CPUs have no LSTM in fp16, and torch finds no CUDA device here"
        else:
            name = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
            rule = f"this machine's {name} has no LSTM in {train.precision}"
        remedy = 'set it to "fp32", or train on another machine'
        raise InputError([Fault(where, found, rule, remedy)])
    return device


def unsupported_precision(device: torch.device, precision: Precision) -> bool:
    """True if the device cannot train an LSTM in a precision; tried with one small step.

    Whether a CPU has the kernels depends on its instruction set and on torch's build, and no flag
    of torch says so.
    """
    if precision == "fp32":
        return False
    if device.type == "cpu" and precision == "fp16":
        return True  # the spec's own rule
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            lstm = torch.nn.LSTM(3, 4, batch_first=True, bidirectional=True).to(device)
            with torch.autocast(device.type, dtype):
                z, _ = lstm(torch.ones(2, 3, 3, device=device))
            z.float().square().mean().backward()
        except RuntimeError as error:
            if device_fault(error) is not None:
                raise
            return True
    return False


def device_fault(error: BaseException) -> Literal["oom", "failed"] | None:
    """The kind of an error of the device or of another rank; None for any other error.

    After such an error this process cannot go on, but a new one may.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or OUT_OF_MEMORY in str(error):
        return "oom"
    if isinstance(error, torch.AcceleratorError | Lost):
        return "failed"
    marked = isinstance(error, RuntimeError) and any(mark in str(error) for mark in FAULTS)
    return "failed" if marked else None


def _keep_memory() -> None:
    """Make glibc keep freed memory for the next step, which is up to twice as fast on a CPU.

    By default it returns a step's buffers to the kernel, and the next step has to map them again.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
