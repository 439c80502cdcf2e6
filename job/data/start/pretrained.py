"""The tensors of a file that a network begins with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from job.data.files import check_file, download, known_kind
from job.errors import Fault, InputError
from job.spec import Pretrained

WHERE = "$.model.weights"


def read_pretrained(weights: Pretrained, folder: Path) -> dict[str, Tensor]:
    """The file's tensors by name, without a leading `model.`; its path is relative to the folder.

    Raises InputError unless it is a safetensors file with the spec's hash, and StoreError if S3 is
    out of reach.
    """
    if weights.path.startswith("s3://"):
        content = download(weights.path)
    else:
        try:
            check_file(folder / weights.path, weights.path)
        except InputError as error:
            remedy = "correct model.weights.path or supply the file"
            raise InputError([replace(f, remedy=remedy) for f in error.faults]) from None
        content = (folder / weights.path).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != weights.sha256:
        rule = f"{weights.path} has the SHA-256 {digest}"
        remedy = "supply the file that is meant, or correct the hash"
        raise InputError([Fault(f"{WHERE}.sha256", json.dumps(weights.sha256), rule, remedy)])
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError:
        found, _ = known_kind(content[:512]) or ("damaged data", "")
        rule, remedy = "must be a valid safetensors file", "name a run's model.safetensors"
        raise InputError([Fault(weights.path, found, rule, remedy)]) from None
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
