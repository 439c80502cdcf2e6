"""torchjd's weightings as balancers, fed with the Gram matrix of the step."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from job.balance import Balancer
from job.faults import Fault, InputError

OF_MATRIX = ("Mean", "NashMTL", "Random", "Sum")
"""Methods that take the Jacobian J [K, n], but through J Jᵀ or its height alone: any factor of
the Gram matrix serves."""

UNFIT = {
    "CRMOGM": "it smooths the weights of another weighting, which an option cannot name",
    "ConFIG": "it needs the gradients themselves, not only their Gram matrix",
    "Constant": 'it is balance.kind "fixed" with weights',
    "ExcessMTL": "it needs the gradients themselves, not only their Gram matrix",
    "GradDrop": "it needs the gradients themselves, not only their Gram matrix",
    "MoDo": "it needs the gradients of two independent batches per step",
    "SDMGrad": "it needs the gradients of two independent batches per step",
    "TrimmedMean": "it needs the gradients themselves, not only their Gram matrix",
}
"""Methods of torchjd that weights from one Gram matrix cannot give, and why."""

EQUALIZED = ("IMTLG", "NashMTL")
"""Methods that a task's scale leaves alone: w(D G D) = D⁻¹ w(G), up to a common factor. They get
gradients of norm 1 and their weights are divided by the norms, which is the same but for rounding:
given G itself, the solver of NashMTL misses at a ratio of 100 between norms, IMTLG's
pseudo-inverse at 1000."""

BLUR = 1e-6
"""Added to the diagonal of IMTLG's Gram matrix, more than float32 is off. Opposite gradients make
that matrix singular, and a pseudo-inverse of it weighs rounding: two such tasks got 5 and −4."""

SIGNED = ("AlignedMTL", "IMTLG")
"""Methods whose weights may be negative."""

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
"""Attributes in which a stateful weighting keeps what it has learned, and their first value for K
tasks. torchjd's own state_dict loses them or cannot be loaded."""


class TorchJD(Balancer):
    """A weighting of torchjd (Quinton and Rey 2024; each method's paper is in its docs).

    It sees gradients in units of their root mean square norm, so a common factor of all losses
    changes no weight (UPGrad, DualProj and CAGrad silently ignore a Gram matrix whose trace is
    under 1e-4, which mean-reduced losses do reach); FairGrad's weights and NashMTL's `max_norm`
    are in that unit. A task without gradient is shown as one of unit norm at right angles to all
    others: the methods give it a weight, and the others theirs as if it were not there, where MGDA
    and CAGrad would return 0 for all. Where a solver fails, or weighs every task 0 (CAGrad does
    where norms are some 1e4 apart), all weigh 1/K for that step, counted in `fallbacks`, and the
    weighting's state stays.

    It runs on the CPU, so each step waits for the device. Random draws (PCGrad, GradVac, Random)
    come from the run's seed and the step, and leave torch's own generator alone. PCD takes the
    first task as the primary one.
    """

    fallbacks: Tensor
    seed: Tensor
    steps: Tensor

    def __init__(self, method: str, options: Mapping[str, Any], tasks: int) -> None:
        """Raises InputError where torchjd or a solver is missing, or method or options are wrong.

        options: arguments of the method's constructor; the number of tasks is filled in.
        """
        super().__init__(tasks)
        self.method = method
        self.signed = method in SIGNED
        self.weighs_heads = False  # as torchjd does: a head under a weight of 0 would not learn
        # Hidden in a list: a weighting's own state_dict must not become a part of ours.
        self._weighting = [_build(method, dict(options), tasks)]
        for name, first in STATE.get(method, {}).items():
            self.register_buffer(_buffer(name), first(tasks))
        self.register_buffer("fallbacks", torch.tensor(0))
        self.register_buffer("seed", torch.tensor(torch.initial_seed() % 2**31))
        self.register_buffer("steps", torch.tensor(0))

    def weigh(self, losses: Tensor, gram: Tensor) -> Tensor:
        """The method's weights, or 1/K for each where it fails."""
        self.steps += 1
        weights = self._try(gram.cpu().double())
        if weights is None:
            self.fallbacks += 1
            return torch.full_like(losses, 1 / self.tasks)
        self._save()
        return weights.to(losses)

    def _try(self, gram: Tensor) -> Tensor | None:
        if not gram.isfinite().all():  # GradVac would answer, and keep NaN in its state
            return None
        try:
            weights = self._solve(_presentable(gram))
        except Exception:  # each method has its solver, each solver its own errors
            return None
        return weights if weights.isfinite().all() and weights.any() else None

    def _solve(self, gram: Tensor) -> Tensor:
        norms = gram.diagonal().sqrt() if self.method in EQUALIZED else torch.ones(self.tasks)
        gram = gram / torch.outer(norms, norms)
        if self.method == "IMTLG":
            gram = gram + BLUR * torch.eye(self.tasks)
        self._load()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(self.seed) * 2**31 + int(self.steps))
            weights = _call(self.method, self._weighting[0], gram)
        weights = weights.double() / norms
        if self.method == "IMTLG":  # its weights sum to 1; dividing by the norms has undone that
            weights = weights / weights.sum()
        return weights.float()

    def _load(self) -> None:
        for name in STATE.get(self.method, {}):
            value = self.get_buffer(_buffer(name)).cpu().clone()
            native = isinstance(getattr(self._weighting[0], name), Tensor)
            setattr(self._weighting[0], name, value if native else value.numpy()[()])

    def _save(self) -> None:
        for name in STATE.get(self.method, {}):
            value = torch.as_tensor(getattr(self._weighting[0], name))
            self.get_buffer(_buffer(name)).copy_(value)


def _buffer(attribute: str) -> str:
    return f"state_{attribute.lstrip('_')}"


def _presentable(gram: Tensor) -> Tensor:
    """The Gram matrix [K, K] over the mean square norm, a dead task at right angles to the others.

    Dead is a gradient that vanishes in float32 when added to the others.
    """
    squares = gram.diagonal()
    dead = squares <= torch.finfo(torch.float32).eps ** 2 * squares.mean()
    live = (squares * ~dead).sum() / (~dead).sum().clamp(min=1)
    kept = torch.where(dead | dead[:, None], 0.0, gram / live.clamp(min=1e-300))
    return kept + torch.diag(dead.double())


def _call(method: str, weighting: Callable[[Tensor], Tensor], gram: Tensor) -> Tensor:
    """Weights [K]. Float32 tells the method how exact the Gram matrix is."""
    if method in OF_MATRIX:
        values, vectors = torch.linalg.eigh(gram)
        gram = vectors * values.clamp(min=0).sqrt()
    with warnings.catch_warnings():
        # cvxpy warns of each slow or inexact solution, at each step.
        warnings.simplefilter("ignore")
        return weighting(gram.float())


def methods() -> list[str]:
    """Names of the methods of the installed torchjd that serve; their solvers may be missing.

    Raises ImportError where torchjd is missing.
    """
    from torchjd import aggregation

    return [
        name
        for name in aggregation.__all__
        if name in OF_MATRIX
        or (
            name not in UNFIT
            and isinstance(found := getattr(aggregation, name), type)
            and issubclass(found, aggregation.GramianWeightedAggregator)
            and found is not aggregation.GramianWeightedAggregator
        )
    ]


def _build(method: str, options: dict[str, Any], tasks: int) -> Any:
    """The weighting, called once on the identity: torchjd checks and builds much only in use."""
    constructor = _constructor(method)
    accepted = inspect.signature(constructor).parameters
    own = {"n_tasks": tasks} if "n_tasks" in accepted else {}
    _check_options(method, options, [name for name in accepted if name not in own])
    try:
        aggregator = constructor(**options, **own)
        weighting = getattr(aggregator, "gramian_weighting", aggregator.weighting)
        with torch.random.fork_rng(devices=[]):
            _call(method, weighting, torch.eye(tasks, dtype=torch.float64))
    except ImportError as error:
        raise _fault("method", method, str(error), 'pip install "evengrad[torchjd]"') from error
    except Exception as error:  # of many kinds: bounds, types, a number of tasks
        needs = ", ".join(str(accepted[name]) for name in accepted if name not in own)
        rule = f"torchjd refuses {method} for {tasks} tasks with these options: {error}"
        raise _fault(
            "options", str(options), rule, f"its options are: {needs or 'none'}"
        ) from error
    _check_state(method, weighting)
    return weighting


def _constructor(method: str) -> Callable[..., Any]:
    try:
        from torchjd import aggregation
    except ImportError as error:
        rule = "balance.kind torchjd needs the package torchjd, which is not installed"
        raise _fault("method", method, rule, 'pip install "evengrad[torchjd]"') from error
    known = methods()
    if method in UNFIT:
        rule = f"torchjd has it, but weights from one Gram matrix cannot give it: {UNFIT[method]}"
        raise _fault("method", method, rule, "use one of " + ", ".join(known))
    if method not in known:
        raise _fault("method", method, "torchjd has no such method", _meant(method, known))
    constructor: Callable[..., Any] = getattr(aggregation, method)
    return constructor


def _check_options(method: str, options: Mapping[str, Any], accepted: list[str]) -> None:
    for name in options:
        if name not in accepted:
            rule = f"{method} has no such option"
            raise _fault(f"options.{name}", str(options[name]), rule, _meant(name, accepted))


def _check_state(method: str, weighting: object) -> None:
    from torchjd import Stateful

    if isinstance(weighting, Stateful) and method not in STATE:
        rule = "it keeps state that a checkpoint here cannot hold, so it could not be resumed"
        raise _fault("method", method, rule, "use another method")


def _meant(word: str, known: list[str]) -> str:
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=1)
    told = f"one of {', '.join(known)}" if known else "there is none"
    return f"did you mean {folded[close[0]]}? {told}" if close else told


def _fault(field: str, found: str, rule: str, remedy: str) -> InputError:
    return InputError([Fault(f"$.balance.{field}", found, rule, remedy)])
