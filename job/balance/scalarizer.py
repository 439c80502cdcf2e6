"""torchjd's scalarizers as balancers: they read the losses alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from job.balance import catalog
from job.balance.base import Balancer

SIGNED = ("COSMOS", "PBI")
"""Methods whose weights may be negative."""

LEARNED = ("IMTLL", "UW")
"""Methods whose parameters the run's optimizer trains, on the scalarized loss."""

LARGEST_LOG = 10.0
"""Largest distance from 0 of a LEARNED method's log scale; without it a loss of 0 has no bound."""

State = dict[str, Tensor]
Asked = Tensor | slice
"""Which tasks a method is asked about: their indices, or all."""


class Scalarizer(Balancer):
    """A scalarizer of torchjd: a function s of the losses. A task's weight is ∂s / ∂L_k.

    Such weights give the trunk and the heads the gradient of s. COSMOS and PBI get the same
    preference 1/K for each task. They may give a low loss a negative weight, and so raise it. The
    log scales of IMTLL and UW are kept within ±10; the run's optimizer trains them. DWA averages
    over the run's epochs. FAMO needs the losses on the same batch after the update, so each step
    has one forward pass more. If a weight is not finite or all are 0 (GeometricMean at a loss of
    0), all tasks get 1/K for that step, and it is counted in `fallbacks`.

    In a batch without labels of some task, the method is asked about the others alone, as if there
    were no more tasks; the absent one gets 0. DWA's averages are over the batches with labels.
    IMTLL and UW need none of that, as no task matters to another's weight.
    """

    fallbacks: Tensor

    def __init__(self, method: str, options: Mapping[str, Any], tasks: int) -> None:
        """Build the scalarizer from the arguments `options` of the method's constructor.

        Raises InputError if torchjd is missing, or if the method or its options are wrong.
        """
        super().__init__(tasks)
        self.method, self.options = method, options
        self.signed = method in SIGNED
        self.observes = method == "FAMO"
        made = _build(method, options, tasks)
        # In a dict, as torchjd's own state_dict must not become part of ours.
        self._made = {tasks: made}
        """By number of tasks."""
        self.learned = nn.ParameterDict(dict(made.named_parameters()) if method in LEARNED else {})
        for name, value in STATES[method](made, tasks).items() if method in STATES else ():
            self.register_buffer(f"state_{name}", value.clone())
        self.register_buffer("fallbacks", torch.tensor(0))

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The slopes of the scalarizer, or 1/K for each task if they are no weights."""
        for value in self.learned.values():
            value.clamp_(-LARGEST_LOG, LARGEST_LOG)
        asked = self._asked(present)
        at = losses.detach()[asked].clone()
        if not len(at):
            return torch.full_like(losses, 1 / self.tasks)
        made = self._loaded(asked, losses.device)
        with torch.enable_grad():
            at.requires_grad_()
            (slopes,) = torch.autograd.grad(made(at), at)
        self._save(made, asked)
        usable = slopes.isfinite().all() & slopes.any()
        self.fallbacks += ~usable
        weights = torch.zeros_like(losses)
        weights[asked] = slopes
        return torch.where(usable, weights, 1 / self.tasks)

    def objective(self, losses: Tensor) -> Tensor | None:
        """The scalarized loss, whose gradient trains the log scales of IMTLL and UW."""
        if not len(self.learned):
            return None
        value: Tensor = self._made[self.tasks](losses.detach())
        return value

    def observe(self, losses: Tensor, present: Tensor | None = None) -> None:
        """Adapt FAMO's weights to what the update did to the losses [K]."""
        asked = self._asked(present)
        if len(given := losses[asked]):
            made = self._loaded(asked, losses.device)
            made.update(given)
            self._save(made, asked)

    def end_epoch(self) -> None:
        """Close DWA's averages of the epoch."""
        if self.method == "DWA" and self.get_buffer("state_batches").any():
            made = self._loaded(slice(None), self.fallbacks.device)
            made.step()
            self._save(made, slice(None))

    def _asked(self, present: Tensor | None) -> Asked:
        if present is None or len(self.learned):
            return slice(None)
        return present.nonzero().flatten()

    def _loaded(self, asked: Asked, device: torch.device) -> Any:
        """The scalarizer of the tasks that are asked about, in the state that the buffers hold."""
        count = self.tasks if isinstance(asked, slice) else len(asked)
        if count not in self._made:
            self._made[count] = _build(self.method, self.options, count)
        made = self._made[count].to(device)
        if self.method in STATES:
            buffers = {n: self.get_buffer(f"state_{n}") for n in STATES[self.method](made, count)}
            state = {n: (b[..., asked] if b.dim() else b).clone() for n, b in buffers.items()}
            LOADERS[self.method](made, state)
        return made

    def _save(self, made: Any, asked: Asked) -> None:
        if self.method in STATES:
            count = self.tasks if isinstance(asked, slice) else len(asked)
            for name, value in STATES[self.method](made, count).items():
                buffer = self.get_buffer(f"state_{name}")
                buffer[(..., asked) if buffer.dim() else ...] = value.to(buffer)


def _build(method: str, options: Mapping[str, Any], tasks: int) -> Any:
    def attempt(made: Any) -> Any:
        made(torch.ones(tasks))
        return made

    own = {"shape": tasks, "weights": torch.full((tasks,), 1 / tasks)}
    unset = {"min_losses": None, "reference": None}  # tensors, which an option cannot be
    made = catalog.build(method, options, own | unset, tasks, attempt)
    known: dict[str, object] = dict.fromkeys(LEARNED)
    catalog.check_state(method, made, known | STATES)
    if hasattr(made, "reset"):
        made.reset()
    return made


# --- the states of FAMO and DWA as tensors of fixed shapes ---------------------------------------


def _famo_state(famo: Any, tasks: int) -> State:
    """FAMO's logits, its own Adam and the losses before the update; all [K] but `step`."""
    zeros = torch.zeros(tasks)
    adam = famo._optimizer.state[famo._w] if famo._optimizer is not None else {}
    return {
        "logits": famo._w.detach().clone(),
        "step": adam.get("step", torch.tensor(0.0)),
        "exp_avg": adam.get("exp_avg", zeros),
        "exp_avg_sq": adam.get("exp_avg_sq", zeros),
        "losses": zeros if famo._prev_losses is None else famo._prev_losses,
    }


def _load_famo(famo: Any, state: State) -> None:
    famo._w.data.copy_(state["logits"])
    famo._prev_losses = state["losses"]
    if famo._optimizer is None:
        famo._optimizer = Adam([famo._w], lr=famo.lr, weight_decay=famo.weight_decay)
    moments = {name: state[name] for name in ("exp_avg", "exp_avg_sq")}
    famo._optimizer.state[famo._w] = {"step": state["step"].cpu(), **moments}


def _dwa_state(dwa: Any, tasks: int) -> State:
    """DWA's sum of the epoch's losses [K], the averages [2, K] of earlier epochs, and counts.

    An average is NaN for an epoch without a batch that has labels of the task.
    """
    averages = torch.zeros(2, tasks)
    for row, average in zip(averages, dwa._previous_averages, strict=False):
        row.copy_(average)
    return {
        "sum": torch.zeros(tasks) if dwa._loss_sum is None else dwa._loss_sum,
        "batches": torch.as_tensor(dwa._n_batches).expand(tasks),
        "averages": averages,
        "epochs": torch.tensor(len(dwa._previous_averages)),
    }


def _load_dwa(dwa: Any, state: State) -> None:
    dwa._n_batches, dwa._loss_sum = state["batches"], state["sum"]
    older, newer = state["averages"]
    newer = torch.where(newer.isnan(), older, newer)  # without labels nothing has changed
    older = torch.where(older.isnan(), newer, older)
    known = [each.nan_to_num(1.0, torch.inf) for each in (older, newer)]
    dwa._previous_averages = known[: int(state["epochs"])]


STATES: dict[str, Callable[[Any, int], State]] = {"DWA": _dwa_state, "FAMO": _famo_state}
"""The state of a stateful method; all tensors keep their shapes over a run."""
LOADERS: dict[str, Callable[[Any, State], None]] = {"DWA": _load_dwa, "FAMO": _load_famo}
"""Put such a state back."""
