"""Replies of another day, or broken ones: nothing but an id is relied on."""

from __future__ import annotations

import math
from typing import Any

import pytest

from deploy.runpod_api import Gpu, Pod


@pytest.mark.parametrize("cost", [math.nan, math.inf, -math.inf, "free", None, {}])
def test_a_price_that_is_none(cost: Any) -> None:
    """It is unknown, and a pod of unknown price is not kept: no number is above NaN."""
    assert Pod.model_validate({"id": "p", "cost": cost}).cost is None


def test_a_pod_of_another_day() -> None:
    """Wrong types, nulls and odd times hide no pod."""
    odd: dict[str, Any] = {"id": "p", "name": None, "status": 7, "gpu": {}, "env": []}
    assert Pod.model_validate(odd | {"createdAt": "yesterday"}) == Pod(id="p")
    told = Pod.model_validate({"id": "p", "createdAt": "2026-11-23T12:00:00"})
    assert told.created is not None
    assert told.created.utcoffset() is not None


def test_a_row_of_another_day() -> None:
    """A GPU without a usable price is one that is not offered."""
    row = Gpu.model_validate({"id": "g", "memory": "much", "price": {"secure": math.nan}})
    assert row.price.of("SECURE") is None
