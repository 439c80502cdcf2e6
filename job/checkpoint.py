"""A run's state in the store, without pickle: safetensors and JSON."""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
from torch import Tensor

from job.store import Missing, Store

MODEL = ("model.", "losses.")
"""What a prediction needs: parameters and transforms. The rest is for going on."""


def save(
    store: Store, run: str, step: int, tensors: dict[str, Tensor], values: dict[str, Any]
) -> int:
    """Store a checkpoint, its pointer last; returns its bytes."""
    host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    folder = f"{run}/checkpoints/{step}"
    files = {
        "model.safetensors": {n: t for n, t in host.items() if n.startswith(MODEL)},
        "state.safetensors": {n: t for n, t in host.items() if not n.startswith(MODEL)},
    }
    size = 0
    for file, part in files.items():
        data = safetensors.torch.save(part)
        size += len(data)
        store.put(f"{folder}/{file}", data)
    store.put(f"{folder}/state.json", json.dumps(values).encode())
    store.put(f"{run}/latest.json", json.dumps({"step": step}).encode())
    return size


def load(store: Store, run: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint's tensors and values; None where the run has none."""
    try:
        step = json.loads(store.get(f"{run}/latest.json").data)["step"]
    except Missing:
        return None
    folder = f"{run}/checkpoints/{step}"
    tensors: dict[str, Tensor] = {}
    for file in ("model.safetensors", "state.safetensors"):
        tensors |= safetensors.torch.load(store.get(f"{folder}/{file}").data)
    return tensors, json.loads(store.get(f"{folder}/state.json").data)
