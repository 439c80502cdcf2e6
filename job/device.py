"""The device that a spec asks for, and this process made ready for it."""

from __future__ import annotations

import os

import torch

from job.faults import Fault, InputError
from job.spec import Train


def settle(train: Train) -> torch.device:
    """Set threads and determinism for this process; returns the device to train on.

    Raises InputError where the device asked for is not here.
    """
    wanted = train.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        rule, remedy = "torch finds no CUDA device here", 'set it to "auto" or "cpu"'
        raise InputError([Fault("$.train.device", '"cuda"', rule, remedy)])
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    if train.deterministic:
        # cuBLAS reads it when it starts; without it deterministic matrix products raise.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(train.deterministic)
    torch.backends.cudnn.deterministic = train.deterministic
    return torch.device(wanted)
