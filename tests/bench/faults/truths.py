"""Which findings name a fault: fixed before any case was run.

A finding is judged by the name of its cause. Names differ between versions, so each is brought to
one by `ALIASES` first; a name that no table knows names nothing. A learning rate, and whatever else
has a direction, is named only if the finding's edit does not go the wrong way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

ALIASES = {
    "scale": "feature_scale",
    "features": "feature_scale",
    "input_scale": "feature_scale",
    "learning_rate_low": "learning_rate",
    "learning_rate_high": "learning_rate",
    "rate": "learning_rate",
    "regularisation": "weight_decay",
    "regularization": "weight_decay",
    "decay": "weight_decay",
    "clipping": "clip",
    "batch": "batch_size",
    "initialization": "initialisation",
    "init": "initialisation",
    "capacity": "width",
    "depth": "width",
    "dead": "dead_units",
    "dying": "dead_units",
    "vanish": "vanishing",
    "vanishing_gradient": "vanishing",
    "explode": "exploding",
    "exploding_gradient": "exploding",
    "frozen": "disconnected",
    "frozen_part": "disconnected",
    "detached": "disconnected",
    "batchnorm": "batch_norm",
    "softmax": "double_softmax",
    "probabilities": "double_softmax",
    "out_of_range": "range",
    "output_range": "range",
    "constant_output": "range",
    "train_eval": "eval_mode",
    "modes": "eval_mode",
    "evaluation_mode": "eval_mode",
    "split_shift": "shift",
    "validation_shift": "shift",
    "shuffled": "shuffled_labels",
    "label_noise": "shuffled_labels",
    "contradictory_labels": "shuffled_labels",
    "contradictions": "shuffled_labels",
    "permuted": "shuffled_labels",
    "wrong_labels": "shuffled_labels",
    "copies": "duplicates",
    "copied_samples": "duplicates",
    "off_by_one_rows": "off_by_one",
    "row_shift": "off_by_one",
    "shifted_rows": "off_by_one",
    "misaligned": "off_by_one",
    "imbalance": "rare_class",
    "class_imbalance": "rare_class",
    "leakage": "leak",
    "epochs": "too_few_steps",
    "target_spread": "target_scale",
    "targets_scale": "target_scale",
    "constant_features": "constant_feature",
    "few_samples": "overfitting",
}
"""Cause → the name that stands for it below."""


SYMPTOMS = frozenset({"no_skill", "control"})
"""Findings that say what is seen, and name no cause: neither right nor wrong."""


class Truth(NamedTuple):
    """What may be said of a kind of fault."""

    causes: frozenset[str]
    direction: int = 0
    """+1: an edit of a learning rate must raise it; −1: must lower it."""
    mendable: bool = True
    """False: the data is at fault, so that an edit of the training is no remedy."""


def _truth(*causes: str, direction: int = 0, mendable: bool = True) -> Truth:
    return Truth(frozenset(causes), direction, mendable)


TRUTHS = {
    # travel_budget: the outputs cannot come to their targets in these steps
    "learning_rate_low": _truth("learning_rate", "travel_budget", direction=1),
    "learning_rate_high": _truth("learning_rate", direction=-1),
    "too_few_steps": _truth("too_few_steps", "travel_budget"),
    "batch_size": _truth("batch_size", "too_few_steps"),
    "feature_scale": _truth("feature_scale"),
    "target_scale": _truth("target_scale", "travel_budget", "saturated_loss"),
    "weight_decay": _truth("weight_decay"),
    "dropout": _truth("dropout"),
    "clip": _truth("clip"),
    "width": _truth("width"),
    "no_hidden_layer": _truth("width", "activation"),
    "initialisation": _truth("initialisation", "dead_units", "vanishing", "exploding"),
    # with weights of 0 no parameter but the last bias has a gradient
    "zero_weights": _truth("initialisation", "dead_units", "vanishing", "blocked_path"),
    "dead_units": _truth("dead_units", "blocked_path", "activation", "initialisation"),
    "hidden_activation": _truth("activation", "vanishing", "initialisation", "saturated_units"),
    "exploding": _truth("exploding", "initialisation"),
    "output_activation": _truth("range", "activation", "targets", "saturated_loss", "dead_units"),
    "double_softmax": _truth("double_softmax", "activation", "range"),
    "disconnected": _truth("disconnected", "blocked_path"),
    "batch_norm": _truth("batch_norm", "eval_mode", "batch_size"),
    "eval_mode": _truth("eval_mode", "dropout"),
    "norm_lag": _truth("eval_mode", "batch_norm"),
    "overfitting": _truth("overfitting"),
    "starved": _truth("starved"),
    # "the features may not tell it" is true of labels that have nothing to do with their rows
    "shuffled_labels": _truth("shuffled_labels", "off_by_one", "uninformative", mendable=False),
    "label_noise": _truth("shuffled_labels", mendable=False),
    "off_by_one": _truth("off_by_one", "shuffled_labels", mendable=False),
    "shift": _truth("shift", mendable=False),
    "duplicates": _truth("duplicates", "leak", mendable=False),
    "leak": _truth("leak", "targets", mendable=False),
    "rare_class": _truth("rare_class", "targets", mendable=False),
    "feature_outliers": _truth("outliers", "feature_scale"),
    "target_outliers": _truth("outliers", mendable=False),
    "blank_features": _truth("constant_feature", "uninformative", "feature_scale", mendable=False),
}
"""Kind of fault → what names it."""


def cause(finding: Any) -> str:
    """The cause of a finding of `diagnose --json`, under the name that stands for it."""
    name = str(finding.get("cause") or finding.get("mechanism")).lower().replace(" ", "_")
    return ALIASES.get(name, name)


def names(finding: Any, kind: str, spec: Any) -> bool:
    """True if the finding names a fault of this kind; spec: the faulty one."""
    truth = TRUTHS[kind]
    wrong_way = truth.direction * direction(finding.get("patch") or [], spec) < 0
    return cause(finding) in truth.causes and not wrong_way


def direction(operations: Iterable[Any], spec: Any) -> int:
    """+1 if a JSON Patch raises a learning rate, −1 if it lowers one, else 0."""
    base = spec.get("optimizer", {}).get("lr", 0.001)
    for operation in operations:
        steps, value = operation["path"].split("/")[1:], operation.get("value")
        if steps[:1] != ["optimizer"]:
            continue
        rates = value if isinstance(value, dict) else {steps[-1]: value}
        for key in ("lr", "head_lr"):
            if isinstance(rates.get(key), int | float) and rates[key] != base:
                return 1 if rates[key] > base else -1
    return 0
