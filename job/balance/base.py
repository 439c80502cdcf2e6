"""The interface of a balancer: weights of the tasks from their losses and gradients.

Weights act on the shared trunk. On a head's own parameters AdamW cancels a constant weight.
To add a balancer: its section in job/spec/balance.py, its class in a file here, its case in
job/balance/build.py; tests/balance/test_balance.py then covers it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

TINY = 1e-8
"""Smallest divisor of a weight, so that a loss of 0 has a weight of 1e8 at most."""


class Balancer(nn.Module):
    """Computes the tasks' weights from their losses and the Gram matrix of their gradients.

    All state that a resume needs is in buffers and parameters of fixed shapes, so that
    `state_dict()` holds only tensors. Parameters are [K], one number for each task.

    A task may be absent from a batch that has no label of it. Its loss and its gradient, both 0,
    then tell nothing: they change no state and no other task's weight. Its own weight has no
    effect.
    """

    reads_gram = False
    """True if the weights depend on the Gram matrix."""
    signed = False
    """True if weights may be negative."""
    weighs_heads = True
    """True if the weights act on the heads' gradients too, as in a weighted sum of losses."""
    observes = False
    """True if `observe` must get the losses of each batch after its update."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.tasks = tasks

    def forward(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """Weights [K], detached, on the device of the losses; updates the balancer's state.

        losses: [K] float32, detached, in transformed units. gram: [K, K] float32, detached,
        ⟨g_s, g_t⟩ of the unweighted tasks' gradients at the shared representation. Both must be
        finite; this is not checked, as a check would stall CUDA at every step. present: [K] bool,
        whether the batch has a label of the task; None if it has of all.

        Raises ValueError if a shape does not match the number of tasks.
        """
        k = self.tasks
        if losses.shape != (k,) or gram.shape != (k, k):
            raise ValueError(
                f"losses {list(losses.shape)} and Gram matrix {list(gram.shape)} given to a "
                f"balancer of {k} tasks; it needs [{k}] and [{k}, {k}]"
            )
        with torch.no_grad():
            return self.weigh(losses, gram, present)

    @abstractmethod
    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The weights that `forward` returns, after its checks and without a gradient."""

    def objective(self, losses: Tensor) -> Tensor | None:
        """A scalar whose gradient trains the balancer's parameters; None if it has none.

        losses: [K], detached. The gradient of an absent task's parameters is not used.
        """
        return None

    def observe(self, losses: Tensor, present: Tensor | None = None) -> None:
        """Learn from the losses [K] of the step's batch after the update, if `observes`."""

    def end_epoch(self) -> None:
        """Learn that an epoch of training steps has ended."""

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load a state. Older ones hold one count of steps where there is now one for each task."""
        for name, mine in self.named_buffers(recurse=False):
            saved = state.get(prefix + name)
            if saved is not None and saved.dim() < mine.dim():
                state[prefix + name] = saved.expand_as(mine)
        super()._load_from_state_dict(state, prefix, *rest)


def kept_where_absent(present: Tensor | None, now: Tensor, before: Tensor) -> Tensor:
    """The values `now` of the tasks in a batch, those `before` of the others."""
    return now if present is None else torch.where(present, now, before)
