"""Losses in a spec: what they refuse, and which specs keep their hash."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from job.errors import InputError
from job.spec.losses import SECTIONS, loss_unit
from job.spec.read import parse_spec

SPEC: dict[str, Any] = {
    "name": "losses",
    "data": {"kind": "arrays", "path": "a.npz"},
    "tasks": [{"name": "y", "level": "window", "outputs": 3, "loss": {"kind": "mse"}}],
    "train": {"epochs": 2, "batch_size": 8},
}


def spec_of(loss: dict[str, Any], **more: Any) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    spec["tasks"][0] |= {"loss": loss} | more
    return spec


def faults(spec: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as raised:
        parse_spec(json.dumps(spec))
    return str(raised.value).splitlines()


@pytest.mark.parametrize(
    ("loss", "more", "line"),
    [
        (
            {"kind": "quantile", "levels": [0.1, 0.9, 0.5]},
            {},
            "$.tasks[0].loss.levels[2]: found 0.5; levels are in rising order, and 0.5 is not "
            "above 0.9; sort the levels, and write each once",
        ),
        (
            {"kind": "quantile", "levels": [0.5, 1]},
            {},
            "$.tasks[0].loss.levels[1]: found 1; must be less than 1; lower it",
        ),
        (
            {"kind": "quantile", "levels": []},
            {},
            "loss.levels: found []; must have 1 or more",
        ),
        (
            {"kind": "poisson_nll"},
            {"transform": {"kind": "standardize"}},
            "poisson_nll is of counts as they are; remove transform",
        ),
        (
            {"kind": "ranking"},
            {"transform": {"kind": "standardize"}},
            "ranking reads the order of the relevances alone; remove transform",
        ),
        (
            {"kind": "gaussian_nll"},
            {"activation": "relu"},
            "gaussian_nll takes means and log variances and applies its own activation; remove",
        ),
        ({"kind": "ordinal"}, {"outputs": 1}, "ordinal needs at least 2 classes; set outputs"),
        ({"kind": "ranking"}, {"outputs": 1}, "ranking needs at least 2 items; set outputs"),
        ({"kind": "ranking"}, {"class_weight": "balanced"}, "ranking has no classes to weigh"),
        ({"kind": "quantile"}, {"class_weight": "balanced"}, "quantile has no classes to weigh"),
        ({"kind": "ordinal"}, {"class_weight": [1, 2]}, "ordinal needs 3 weights, one for each"),
        ({"kind": "cross_entropy", "smoothing": 1}, {}, "smoothing: found 1; must be less than 1"),
        ({"kind": "cross_entropy", "focal": -1}, {}, "focal: found -1; must be at least 0"),
        ({"kind": "gaussian_nll", "floor": 0}, {}, "floor: found 0; must be at least 1e-06"),
        (
            {"kind": "mse"},
            {"metrics": ["crossing"]},
            "mse has no such metric; it has mae, rmse, r2",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    loss: dict[str, Any], more: dict[str, Any], line: str
) -> None:
    """With the place, the rule and the remedy."""
    (found,) = faults(spec_of(loss, **more))
    assert found.startswith("$.tasks[0].")
    assert line in found


def test_coverage_is_bounded_not_watched() -> None:
    """A gate may hold it between two values; it has no best one to stop at or to keep."""
    spec = spec_of({"kind": "quantile"})
    gate = {"task": "y", "metric": "coverage", "above": 0.7, "below": 0.9, "by_epoch": 2}
    assert parse_spec(json.dumps(spec | {"gates": [gate]})).gates
    spec["checkpoint"] = {"best_of": "y", "best_metric": "coverage"}
    (found,) = faults(spec)
    assert "neither a higher nor a lower coverage is better" in found


@pytest.mark.parametrize("kind", ["cross_entropy", "binary_cross_entropy"])
def test_a_loss_without_the_new_fields_keeps_its_content(kind: str) -> None:
    """Neither unset nor at their default are they content; set, they are."""
    plain = parse_spec(json.dumps(spec_of({"kind": kind})))
    assert json.loads(plain.canonical())["tasks"][0]["loss"] == {"kind": kind}
    unset = parse_spec(json.dumps(spec_of({"kind": kind, "smoothing": 0.0, "focal": 0.0})))
    assert unset.content_hash() == plain.content_hash()
    for field in ("smoothing", "focal"):
        other = parse_spec(json.dumps(spec_of({"kind": kind, field: 0.5})))
        assert other.content_hash() != plain.content_hash()
        assert parse_spec(other.canonical()) == other


@pytest.mark.parametrize("kind", SECTIONS)
def test_each_loss_has_a_head_and_a_unit(kind: str) -> None:
    """A head of at least one number; the unit of what is in nats is that, whatever the target's."""
    (task,) = parse_spec(json.dumps(spec_of({"kind": kind}))).tasks
    assert task.head_width == {"quantile": 9, "gaussian_nll": 6, "ordinal": 2}.get(kind, 3)
    expected = {"mse": "€²", "mae": "€", "huber": "€", "quantile": "€"}.get(kind, "nats")
    assert loss_unit(kind, "€") == expected
