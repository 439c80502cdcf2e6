"""A copy of the state on the host, in the very bytes that its files will have.

Training waits for one memcpy into buffers that were touched before it began; a new buffer would
cost five times as much in page faults. The files are laid out here, and not by safetensors, which
takes 2.7 times the memory of a state to write it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from job.record.layout import MODEL, STATE

FOR_PREDICTION = ("model.", "ema.", "losses.")
"""Names of the parameters, their averages and transforms that a prediction needs. Only a resume
needs the rest."""
TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""safetensors' name of each type, in its order of layout, which keeps all tensors aligned."""


def file_of(name: str) -> str:
    """The file that a tensor belongs to."""
    return MODEL if name.startswith(FOR_PREDICTION) else STATE


class Snapshot:
    """Buffers for one state; they hold the newest state that was taken."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.values: dict[str, Any] = {}
        self._buffers: dict[str, Tensor] = {}
        self._places: dict[str, Tensor] = {}
        self._copied: torch.cuda.Event | None = None
        cuda = any(t.is_cuda for t in tensors.values())
        if cuda:
            self._copied = torch.cuda.Event()
        for file in (MODEL, STATE):
            part = {n: t for n, t in tensors.items() if file_of(n) == file}
            head = header(part)
            size = len(head) + sum(t.nbytes for t in part.values())
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=cuda)
            buffer[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
            first = len(head)
            for name, tensor in laid_out(part):
                bytes_of = buffer[first : first + tensor.nbytes]
                self._places[name] = bytes_of.view(tensor.dtype).view(tensor.shape)
                first += tensor.nbytes
            self._buffers[file] = buffer
        self.take(tensors, {})

    def take(self, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Copy a state of the same names, types and shapes; `values` must not change later."""
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
        """Bytes of all files."""
        return sum(len(buffer) for buffer in self._buffers.values())


def laid_out(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Tensors in the order of a safetensors file."""
    order = {dtype: place for place, dtype in enumerate(TYPES)}
    return sorted(tensors.items(), key=lambda item: (order[item[1].dtype], item[0]))


def header(tensors: Mapping[str, Tensor]) -> bytes:
    """The start of a safetensors file: a length, and JSON that says where each tensor lies."""
    places, first = {}, 0
    for name, tensor in laid_out(tensors):
        last = first + tensor.nbytes
        shape, dtype = list(tensor.shape), TYPES[tensor.dtype]
        places[name] = {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}
        first = last
    text = json.dumps(places, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
