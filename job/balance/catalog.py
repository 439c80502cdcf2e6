"""torchjd's methods by name: which can be used here, and the objects that a spec asks for."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from job.errors import Fault, InputError

OF_MATRIX = ("Mean", "NashMTL", "Random", "Sum")
"""Weightings that take the Jacobian J [K, n], but use only J Jᵀ or K: any factor of the Gram matrix
will do."""

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
"""Methods of torchjd that need more than one Gram matrix, and why."""


def weightings() -> list[str]:
    """Names of the usable weightings, which read a Gram matrix; their solvers may be missing.

    Raises ImportError if torchjd is missing.
    """
    from torchjd import aggregation

    return [
        name
        for name in aggregation.__all__
        if name in OF_MATRIX
        or (
            name not in UNFIT
            and isinstance(method := getattr(aggregation, name), type)
            and issubclass(method, aggregation.GramianWeightedAggregator)
            and method is not aggregation.GramianWeightedAggregator
        )
    ]


def scalarizers() -> list[str]:
    """Names of the usable scalarizers, which read the losses.

    A name that aggregation has too, such as Mean, is a weighting here. Raises ImportError if
    torchjd is missing.
    """
    from torchjd import aggregation, scalarization

    other = {"Scalarizer", *UNFIT, *aggregation.__all__}
    return [name for name in scalarization.__all__ if name not in other]


def methods() -> list[str]:
    """Names of all usable methods. Raises ImportError if torchjd is missing."""
    return weightings() + scalarizers()


def is_scalarizer(method: str) -> bool:
    """True if a method reads the losses.

    Raises InputError if torchjd is missing or has no such method, or if it cannot be used here.
    """
    constructor(method)
    return method in scalarizers()


def constructor(method: str) -> Callable[..., Any]:
    """The method's class. Raises InputError as `is_scalarizer` does."""
    try:
        from torchjd import aggregation, scalarization
    except ImportError as error:
        rule = "balance.kind torchjd needs the package torchjd, which is not installed"
        raise fault("method", method, rule, 'pip install "evengrad[torchjd]"') from error
    known = methods()
    if method in UNFIT:
        rule = f"torchjd has this method, but it cannot be used here: {UNFIT[method]}"
        raise fault("method", method, rule, "use one of " + ", ".join(known))
    if method not in known:
        raise fault("method", method, "torchjd has no such method", _suggestion(method, known))
    module = scalarization if method in scalarizers() else aggregation
    made: Callable[..., Any] = getattr(module, method)
    return made


def build(
    method: str,
    options: Mapping[str, Any],
    own: Mapping[str, Any],
    tasks: int,
    attempt: Callable[[Any], Any],
) -> Any:
    """What `attempt` makes of the method's object.

    own: arguments of the constructor that are not the user's, used if it has them. attempt: gets
    the object and must call it once, as torchjd checks much only when called. Raises InputError if
    the method or its options are wrong, or a solver is missing.
    """
    make = constructor(method)
    parameters = inspect.signature(make).parameters
    own = {name: value for name, value in own.items() if name in parameters}
    accepted = [name for name in parameters if name not in own]
    for name in options:
        if name not in accepted:
            rule = f"{method} has no such option"
            raise fault(f"options.{name}", str(options[name]), rule, _suggestion(name, accepted))
    try:
        with torch.random.fork_rng(devices=[]):
            return attempt(make(**options, **own))
    except ImportError as error:
        raise fault("method", method, str(error), 'pip install "evengrad[torchjd]"') from error
    except Exception as error:  # of many kinds: bounds, types, a number of tasks
        needs = ", ".join(str(parameters[name]) for name in accepted)
        rule = f"torchjd refuses {method} for {tasks} tasks with these options: {error}"
        remedy = f"its options are: {needs or 'none'}"
        raise fault("options", str(dict(options)), rule, remedy) from error


def check_state(method: str, made: object, known: Mapping[str, object]) -> None:
    """Raise InputError if the method has a state that is not among the `known`."""
    from torchjd import Stateful

    if isinstance(made, Stateful) and method not in known:
        rule = "its state cannot be saved in a checkpoint, so a run with it could not be resumed"
        raise fault("method", method, rule, "use another method")


def fault(field: str, found: str, rule: str, remedy: str) -> InputError:
    """The error for a field of the spec's `balance`."""
    return InputError([Fault(f"$.balance.{field}", found, rule, remedy)])


def _suggestion(word: str, known: list[str]) -> str:
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=1)
    choices = f"one of {', '.join(known)}" if known else "there is none"
    return f"did you mean {folded[close[0]]}? {choices}" if close else choices
