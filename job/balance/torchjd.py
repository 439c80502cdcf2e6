"""torchjd's weightings as balancers: they get the Gram matrix of each step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from job.balance import catalog, solved
from job.balance.base import Balancer

EQUALIZED = ("IMTLG", "NashMTL")
"""Methods that a task's scale does not affect: w(D G D) = D⁻¹ w(G), up to a common factor. They
get gradients of norm 1, and their weights are divided by the norms. This is the same but for
rounding: given G itself, NashMTL's solver is wrong from a ratio of 100 between norms, and IMTLG's
pseudo-inverse from 1000."""

CONE = ("UPGrad", "DualProj")
"""Methods that project onto the dual cone {x : ⟨g_k, x⟩ ≥ 0 for all k}, which no norm changes: the
projection of Σ u_k g_k is that of Σ (u_k |g_k|) (g_k / |g_k|). So they get gradients of norm 1 and
the norms as their preference vector, and their weights are divided by the norms. Given G itself,
what torchjd adds to its diagonal outweighs the smaller task from a ratio of 30 between norms, and
the update then raises that task's loss."""

CONE_BLUR = 1e-8
"""Added to the diagonal of a CONE method's Gram matrix over its trace, so that the solver can
factor it; torchjd's own value of 1e-4 lets a loss rise."""

BLUR = 1e-6
"""Added to the diagonal of IMTLG's Gram matrix; larger than the rounding of float32. Opposite
gradients make that matrix singular, and its pseudo-inverse then amplifies rounding: two such tasks
got the weights 5 and −4."""

SIGNED = ("AlignedMTL", "IMTLG")
"""Methods whose weights may be negative."""

EXACT = ("CAGrad", *CONE)
"""Methods that get float64. All others get float32, and so choose tolerances that fit it."""

ROUNDING = 1e-3
"""Largest negative eigenvalue, over the largest one, that counts as rounding."""

STATE: dict[str, dict[str, Callable[[int], Tensor]]] = {
    "GradVac": {"_phi_t": lambda k: torch.zeros(k, k)},
    "NashMTL": {
        "prvs_alpha": lambda k: torch.ones(k, dtype=torch.float64),
        "step": lambda k: torch.tensor(0.0, dtype=torch.float64),
    },
    "PCD": {
        "_sq_norm_ema": lambda k: torch.zeros(k, dtype=torch.float64),
        "_n_steps": lambda k: torch.tensor(0),
    },
}
"""Attributes that hold the state of a stateful weighting, with their first value for K tasks.
torchjd's own state_dict loses them or cannot be loaded."""


class TorchJD(Balancer):
    """A weighting of torchjd (Quinton and Rey 2024; each method's paper is in its docs).

    The method gets gradients in units of their root mean square norm, so that a common factor of
    all losses changes no weight: UPGrad, DualProj and CAGrad silently ignore a Gram matrix with a
    trace below 1e-4, which mean losses do reach. FairGrad's weights and NashMTL's `max_norm` are
    in that unit. A task without gradient is passed as a gradient of unit norm at right angles to
    all others. The others then get the weights that they would have without it; with a norm of 0,
    MGDA and CAGrad would return 0 for all.

    `fallbacks` counts the steps at which the weights are not the method's own. Either its solver
    failed, gave every task a weight of 0 (CAGrad does at ratios of about 1e4 between norms), or
    gave weights that miss the method's own condition (job.balance.solved): then all tasks get 1/K,
    and the weighting's state is unchanged. Or a task's gradient is under 1.2e-7 of the root mean
    square norm, but not 0: then it is passed like a task without gradient.

    UPGrad and DualProj promise that no task's loss rises, to first order. In float32 and at norm
    ratios up to 1e6 they hold it up to rounding: ⟨g_k, u⟩ / |g_k| ≥ −1e-6 Σ_j w_j |g_j| for the
    update u = Σ_j w_j g_j. So a cosine of a gradient with u may be below −1e-3 only if u is
    shorter than a thousandth of what it is summed from: where the gradients cancel.

    A task that is absent from a batch is passed like one without gradient, and its part of the
    state is put back afterwards; PCD's mean square norms count all steps, so an absent task is
    passed with the norm that it has on average. Without any task there is nothing to ask.

    It runs on the CPU, so each step waits for the device. Random draws (PCGrad, GradVac, Random)
    depend on the run's seed and the step, and do not change torch's own generator. For PCD, the
    first task is the primary one.
    """

    reads_gram = True
    fallbacks: Tensor
    seed: Tensor
    steps: Tensor

    def __init__(self, method: str, options: Mapping[str, Any], tasks: int) -> None:
        """Build the weighting from the arguments `options` of the method's constructor.

        The number of tasks is filled in. Raises InputError if torchjd or a solver is missing, or
        if the method or its options are wrong.
        """
        super().__init__(tasks)
        self.method = method
        self.signed = method in SIGNED
        self.weighs_heads = False  # as torchjd does: a head under a weight of 0 would not learn
        # In a list, as a weighting's own state_dict must not become part of ours.
        self._weighting = [_build(method, dict(options), tasks)]
        for name, first in STATE.get(method, {}).items():
            self.register_buffer(_buffer(name), first(tasks))
        self.register_buffer("fallbacks", torch.tensor(0))
        self.register_buffer("seed", torch.tensor(torch.initial_seed() % 2**31))
        self.register_buffer("steps", torch.tensor(0))

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The method's weights, or 1/K for each task if it fails."""
        present = None if present is None else present.cpu()
        if present is not None and not present.any():
            return torch.full_like(losses, 1 / self.tasks)
        self.steps += 1
        gram = gram.cpu().double()
        weights = self._solve_or_none(gram, present)
        if weights is None:
            self.fallbacks += 1
            return torch.full_like(losses, 1 / self.tasks)
        self.fallbacks += int((_dead(gram) & (gram.diagonal() > 0)).any())
        self._save(present)
        return weights.to(losses)

    def _solve_or_none(self, gram: Tensor, present: Tensor | None) -> Tensor | None:
        if not gram.isfinite().all():  # GradVac would accept it, and keep NaN in its state
            return None
        try:
            weights = self._solve(_normalized(gram), present)
        except Exception:  # each solver has its own errors
            return None
        return weights if weights.isfinite().all() and weights.any() else None

    def _solve(self, gram: Tensor, present: Tensor | None) -> Tensor:
        """The method's weights of a normalized Gram matrix. Raises an error if it has none."""
        weighting = self._weighting[0]
        scale_free = self.method in EQUALIZED + CONE
        norms = gram.diagonal().sqrt() if scale_free else torch.ones(self.tasks)
        gram = gram / torch.outer(norms, norms)
        if self.method in CONE:
            weighting.pref_vector = norms / norms.max()
        if self.method == "IMTLG":
            gram = gram + BLUR * torch.eye(self.tasks)
        self._load()
        if self.method == "PCD" and present is not None:
            gram = _with_usual_norms(weighting, gram, present)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(self.seed) * 2**31 + int(self.steps))
            weights = _call(self.method, weighting, gram).double()
        solved.check(self.method, weighting, gram, weights)
        weights = weights / norms
        if self.method == "IMTLG":  # its weights must sum to 1, also after the division
            weights = weights / weights.sum()
        if self.method in CONE:  # in the preference's unit, as its weights are 1/K
            weights = weights * norms.max() / self.tasks
        return weights.float()

    def _load(self) -> None:
        for name in STATE.get(self.method, {}):
            value = self.get_buffer(_buffer(name)).cpu().clone()
            native = isinstance(getattr(self._weighting[0], name), Tensor)
            setattr(self._weighting[0], name, value if native else value.numpy()[()])

    def _save(self, present: Tensor | None) -> None:
        for name in STATE.get(self.method, {}):
            buffer = self.get_buffer(_buffer(name))
            value = torch.as_tensor(getattr(self._weighting[0], name))
            if present is not None and value.dim() > 0 and self.method != "PCD":
                both = present if value.dim() == 1 else present & present[:, None]
                value = torch.where(both, value, buffer.cpu())
            buffer.copy_(value)


def _with_usual_norms(pcd: Any, gram: Tensor, present: Tensor) -> Tensor:
    """The Gram matrix with PCD's mean square norm of each absent task as its square norm.

    Its mean then stays, corrected for the number of steps. A task's mean begins with the first
    step at which it is present.
    """
    seen = 1 - pcd.beta ** int(pcd._n_steps)
    fresh = present & (pcd._sq_norm_ema == 0)
    pcd._sq_norm_ema = torch.where(fresh, gram.diagonal() * seen, pcd._sq_norm_ema)
    usual = pcd._sq_norm_ema / seen if seen > 0 else torch.zeros(len(gram), dtype=gram.dtype)
    return torch.where(torch.diag(~present), torch.diag(usual), gram)


def _buffer(attribute: str) -> str:
    return f"state_{attribute.lstrip('_')}"


def _dead(gram: Tensor) -> Tensor:
    """Which tasks' gradients vanish in float32 when they are added to the others."""
    squares = gram.diagonal()
    return squares <= torch.finfo(torch.float32).eps ** 2 * squares.mean()


def _normalized(gram: Tensor) -> Tensor:
    """The Gram matrix [K, K] over the mean square norm, with dead tasks made orthogonal."""
    dead = _dead(gram)
    live = (gram.diagonal() * ~dead).sum() / (~dead).sum().clamp(min=1)
    kept = torch.where(dead | dead[:, None], 0.0, gram / live.clamp(min=1e-300))
    return kept + torch.diag(dead.double())


def _call(method: str, weighting: Callable[[Tensor], Tensor], gram: Tensor) -> Tensor:
    """The weighting's weights [K]. Raises ValueError if no gradients have this Gram matrix."""
    if method in catalog.OF_MATRIX + EXACT:
        values, vectors = torch.linalg.eigh(gram)
        if values.min() < -ROUNDING * values.max():
            raise ValueError("the Gram matrix has a negative eigenvalue")
        factor = vectors * values.clamp(min=0).sqrt()
        # Without the negative eigenvalues that rounding leaves, which no solver can factor.
        gram = factor if method in catalog.OF_MATRIX else factor @ factor.mT
    with warnings.catch_warnings():
        # cvxpy warns of each slow or inexact solution, at each step.
        warnings.simplefilter("ignore")
        return weighting(gram if method in EXACT else gram.float())


def _build(method: str, options: Mapping[str, Any], tasks: int) -> Any:
    def attempt(aggregator: Any) -> Any:
        weighting = getattr(aggregator, "gramian_weighting", aggregator.weighting)
        if method in CONE:
            from torchjd.linalg import QuadprogProjector

            weighting.projector = QuadprogProjector(norm_eps=0.0, reg_eps=CONE_BLUR)
        _call(method, weighting, torch.eye(tasks, dtype=torch.float64))
        return weighting

    made = catalog.build(method, options, {"n_tasks": tasks}, tasks, attempt)
    catalog.check_state(method, made, STATE)
    return made
