"""The methods, each as edits of a data set's spec.

All but the plain sum have targets of mean 0 and standard deviation 1: whoever compares a balancer
with a plain sum of losses in different units compares it with a missing preparation of the data.
"""

from __future__ import annotations

from tests.bench.multitask.problems import Json, Problem

RAW, SUM, TUNED = "plain sum", "standardize + sum", "the same, tuned"
NASH = {"kind": "torchjd", "method": "NashMTL", "options": {"update_weights_every": 10}}
"""Its solver runs at every tenth step, as its authors do where it would rule the time."""
BALANCERS: dict[str, Json] = {
    "running mean × √N": {"kind": "running_mean_sqrt_n"},
    "gradient_norm": {"kind": "gradient_norm"},
    "uncertainty": {"kind": "uncertainty"},
    "GradNorm": {"kind": "gradnorm"},
    "FAMO": {"kind": "torchjd", "method": "FAMO"},
    "DWA": {"kind": "torchjd", "method": "DWA"},
    "IMTL-G": {"kind": "torchjd", "method": "IMTLG"},
    "UPGrad": {"kind": "torchjd", "method": "UPGrad"},
    "CAGrad": {"kind": "torchjd", "method": "CAGrad", "options": {"c": 0.5}},
    "Nash-MTL": NASH,
}
METHODS = (RAW, SUM, TUNED, *BALANCERS)


def has_numbers(problem: Problem) -> bool:
    """Whether the tasks have targets to standardize; else the plain sum is the standardized one."""
    return any("transform" in task for task in problem.spec["tasks"])


def methods_of(problem: Problem) -> list[str]:
    """Those that differ on these tasks."""
    return [method for method in METHODS if method != RAW or has_numbers(problem)]


def spec_of(problem: Problem, method: str, seed: int, tuned: Json | None = None) -> Json:
    """The spec of a method; tuned: the sections that a search has found."""
    spec = problem.spec_of(seed)
    if method == RAW:
        for task in spec["tasks"]:
            task.pop("transform", None)
    elif method == TUNED:
        spec |= tuned or {}
    elif method != SUM:
        spec["balance"] = BALANCERS[method]
    return spec
