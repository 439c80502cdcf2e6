"""A copy of the state on the host, in the very bytes that its files will have.

Training waits for one memcpy into buffers that were touched before it began; a new buffer would
cost five times as much in page faults. Where the tensors lie in the files is asked of safetensors
once, with the first state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

MODEL, STATE = "model.safetensors", "state.safetensors"
FOR_PREDICTION = ("model.", "losses.")
"""Parameters and transforms: what a prediction needs. The rest is for going on."""


def file_of(name: str) -> str:
    """The file that a tensor belongs to."""
    return MODEL if name.startswith(FOR_PREDICTION) else STATE


class Snapshot:
    """Buffers for one state."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.values: dict[str, Any] = {}
        self._buffers: dict[str, Tensor] = {}
        self._places: dict[str, Tensor] = {}
        self._copied: torch.cuda.Event | None = None
        cuda = any(t.is_cuda for t in tensors.values())
        if cuda:
            self._copied = torch.cuda.Event()
        for file in (MODEL, STATE):
            part = {n: t.detach().cpu() for n, t in tensors.items() if file_of(n) == file}
            # A copy each: safetensors refuses tensors that share memory.
            written = safetensors.torch.save({n: t.contiguous().clone() for n, t in part.items()})
            buffer = torch.empty(len(written), dtype=torch.uint8, pin_memory=cuda)
            buffer.copy_(torch.frombuffer(bytearray(written), dtype=torch.uint8))
            self._buffers[file] = buffer
            self._find_places(buffer, written, part)

    def _find_places(self, buffer: Tensor, written: bytes, part: Mapping[str, Tensor]) -> None:
        length = int.from_bytes(written[:8], "little")
        header = json.loads(written[8 : 8 + length])
        for name, tensor in part.items():
            first, last = (8 + length + offset for offset in header[name]["data_offsets"])
            self._places[name] = buffer[first:last].view(tensor.dtype).view(tensor.shape)

    def take(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Copy a state of the same names, types and shapes; values must not change afterwards."""
        assert tensors.keys() == self._places.keys()
        for name, tensor in tensors.items():
            self._places[name].copy_(tensor.detach(), non_blocking=True)
        self.values = values
        if self._copied is not None:
            self._copied.record()

    def files(self) -> dict[str, memoryview]:
        """The files' bytes; waits for the device to have copied them."""
        if self._copied is not None:
            self._copied.synchronize()
        return {file: buffer.numpy().data for file, buffer in self._buffers.items()}

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(buffer) for buffer in self._buffers.values())
