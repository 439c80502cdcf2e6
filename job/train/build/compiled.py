"""PyTorch's compiler on a network's trunk and heads; losses and ledger stay as they are.

Compiled parts are another face of the same network: it has the same modules and parameters, and
evaluation, checkpoints and export keep the network itself. Every shape is compiled for itself, as a
run that is resumed meets the shapes in another order, and its random numbers are drawn as without.
"""

from __future__ import annotations

import atexit
import copy
import os
import shlex
import shutil
import tempfile
import time
import warnings
from importlib import util
from typing import Any, TypeVar

import torch

from job.distributed.device import device_fault
from job.distributed.ranks import ALONE
from job.errors import Fault, InputError
from job.model.network import Network
from job.model.undisturbed import undisturbed
from job.train.gradients.elements import Part, weigh_parts
from job.train.gradients.ownership import Ownership
from job.train.gradients.passes import Batch
from job.train.step import Stepper

PARTS = ("represent", "read_each", "read_steps", "outputs")
"""Methods of networks that are compiled, where a network has them."""
PLACE = "$.train.compile"
CACHE = "TORCHINDUCTOR_CACHE_DIR"
OFF = "set it to false"
SHAPES = 256
"""Shapes for which a part may be compiled; the compiler's own limit is 8."""

Net = TypeVar("Net", bound=Network)


def check_compiler(device: torch.device) -> None:
    """Raise InputError if this machine lacks what PyTorch's compiler needs."""
    wanted = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(wanted[0]) is None:
        remedy = "install it (Debian: apt-get install g++), or set it to false"
        raise InputError([_fault(f"there is no C++ compiler {wanted[0]} here", remedy)])
    if device.type == "cuda" and util.find_spec("triton") is None:
        remedy = "install the triton of this torch, or set it to false"
        raise InputError([_fault("GPUs need the package triton", remedy)])


def check_cut(known: Ownership) -> None:
    """Raise InputError for a network whose trunk and heads are not apart."""
    if known.obstacle is not None:
        raise InputError([_fault(f"trunk and heads must be apart, but {known.obstacle}", OFF)])


def compiled(model: Net, backend: str = "inductor") -> Net:
    """The network with compiled parts; it has trunk and heads."""
    _configure()
    options: dict[str, Any] | None = {"fallback_random": True} if backend == "inductor" else None
    face = copy.copy(model)
    for name in PARTS:
        if hasattr(type(face), name):
            part = torch.compile(
                getattr(face, name), dynamic=False, backend=backend, options=options
            )
            setattr(face, name, part)
    return face


def compile_ahead(stepper: Stepper, part: Part) -> float:
    """Compile for a batch like this one; returns the seconds. Nothing of the training changes.

    Raises InputError if the network does not compile.
    """
    begun = time.perf_counter()
    stepper.model.begin_batch(part.share)
    (elements,) = weigh_parts(stepper.of_tasks, [part._replace(share=None)], ALONE)
    batch = Batch(part.inputs, part.targets, None, elements)
    with undisturbed(stepper.model, training=True):
        try:
            stepper.passes.measured(batch, lambda losses, _: torch.ones_like(losses), audit=False)
        except Exception as error:
            if isinstance(error, InputError) or device_fault(error):
                raise
            lines = str(error).strip().splitlines() or [""]
            rule = f"the network does not compile here: {type(error).__name__}: {lines[0]}"
            raise InputError([_fault(rule, OFF)]) from error
    for p in stepper.parameters():
        p.grad = None
    return time.perf_counter() - begun


def _fault(rule: str, remedy: str) -> Fault:
    return Fault(PLACE, "true", rule, remedy)


def _configure() -> None:
    """Set the compiler up for this process."""
    if CACHE not in os.environ:  # before the import, which sets it to a folder that stays
        # What a process that was killed has half written must not reach the next one.
        os.environ[CACHE] = folder = tempfile.mkdtemp(prefix="evengrad-compiled-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    import torch._dynamo
    import torch._functorch.config

    # Tracing looks at the heads' rows of z, which are no leaves, as if it wanted their gradients.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf Tensor")
    torch._dynamo.config.recompile_limit = SHAPES
    torch._functorch.config.donated_buffer = False  # an audit goes through a graph more than once
