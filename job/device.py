"""The device that a spec asks for, and this process made ready for it."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Literal

import torch

from job.faults import Fault, InputError
from job.ranks import Lost
from job.spec import Train

OUT_OF_MEMORY = "can't allocate memory"
"""In the text of what torch's CPU allocator raises, which has no type of its own."""
FAULTS = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "NCCL error")
"""The same of CUDA's libraries."""


def settle(train: Train) -> torch.device:
    """Set threads and determinism for this process; returns the device to train on.

    Raises InputError where the device asked for is not here, or cannot do what is asked.
    """
    wanted = train.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        rule, remedy = "torch finds no CUDA device here", 'set it to "auto" or "cpu"'
        raise InputError([Fault("$.train.device", '"cuda"', rule, remedy)])
    if wanted == "cpu" and train.precision == "fp16":
        rule, remedy = "CPUs have no LSTM in fp16", 'set it to "bf16" or "fp32"'
        raise InputError([Fault("$.train.precision", '"fp16"', rule, remedy)])
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    if train.deterministic:
        # cuBLAS reads it when it starts; without it deterministic matrix products raise.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(train.deterministic)
    # Nothing here reads memory before it is written; filling it would cost 5 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a property
    torch.backends.cudnn.deterministic = train.deterministic
    _keep_memory()
    return torch.device(wanted)


def device_fault(error: Exception) -> Literal["oom", "failed"] | None:
    """What befell the device, its memory or another rank; None where the error tells of others.

    A new process may do better: after a CUDA error this one cannot.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or OUT_OF_MEMORY in str(error):
        return "oom"
    if isinstance(error, torch.AcceleratorError | Lost):
        return "failed"
    marked = isinstance(error, RuntimeError) and any(mark in str(error) for mark in FAULTS)
    return "failed" if marked else None


def _keep_memory() -> None:
    """Have glibc keep freed memory for the next step: up to twice as fast on a CPU.

    By itself it gives a step's buffers back to the kernel, and the next one faults them in again.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
