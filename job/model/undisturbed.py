"""Looking into a network without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from job.model.network import Network


@contextmanager
def undisturbed(model: Network, training: bool) -> Iterator[None]:
    """In training or evaluation mode; afterwards modes, buffers and generators are as before."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with ExitStack() as within:
        within.enter_context(torch.random.fork_rng([d for d in devices if d is not None]))
        if not training:  # cuDNN's LSTM has no backward in evaluation mode
            within.enter_context(torch.backends.cudnn.flags(enabled=False))
        model.train(training)
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for name, before in buffers.items():
                    model.get_buffer(name).copy_(before)
