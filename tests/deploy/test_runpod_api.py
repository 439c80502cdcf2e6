"""RunPod's replies and refusals: nothing but an id is relied on, and no secret is repeated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from deploy.runpod import client as clients
from deploy.runpod.client import RunPod
from deploy.runpod.errors import ApiError, BadCredentials, BrokenRule, NotAllowed, Unanswered
from deploy.runpod.models import Gpu, Pod


@pytest.mark.parametrize("cost", [math.nan, math.inf, -math.inf, "free", None, {}])
def test_a_price_that_is_none(cost: Any) -> None:
    """It is unknown, and a pod of unknown price is not kept: no number is above NaN."""
    assert Pod.model_validate({"id": "p", "cost": cost}).cost is None


def test_a_pod_of_another_day() -> None:
    """Wrong types, nulls and odd times hide no pod."""
    odd: dict[str, Any] = {"id": "p", "name": None, "status": 7, "gpu": {}, "env": []}
    assert Pod.model_validate(odd | {"createdAt": "yesterday"}) == Pod(id="p")
    pod = Pod.model_validate({"id": "p", "createdAt": "2026-11-23T12:00:00"})
    assert pod.created is not None
    assert pod.created.utcoffset() is not None


def test_a_row_of_another_day() -> None:
    """A GPU without a usable price is one that is not offered."""
    row = Gpu.model_validate({"id": "g", "memory": "much", "price": {"secure": math.nan}})
    assert row.price.of("SECURE") is None


# --- refusals -------------------------------------------------------------------------------------

KEY = "rpa_secret"
Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[httpx.Response], RunPod]:
    """Makes a client that gets one answer, whatever it asks."""
    monkeypatch.setattr(clients, "LONGEST_WAIT", 0.0)

    def make(answer: httpx.Response) -> RunPod:
        api = RunPod(KEY)
        transport = httpx.MockTransport(lambda _: answer)
        api._client = httpx.Client(transport=transport, base_url="https://api.invalid/v2")
        return api

    return make


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (httpx.Response(401, json={"detail": f"key {KEY} has\n expired"}), BadCredentials,
         "GET pods: key <redacted> has expired"),
        (httpx.Response(403, json={"message": "denied by policy"}), NotAllowed,
         "GET pods: denied by policy"),
        (httpx.Response(400, json={"error": "no such rule"}), BrokenRule,
         "GET pods: no such rule"),
        (httpx.Response(503, text="upstream is away"), Unanswered, "GET pods: upstream is away"),
        (httpx.Response(502, html="<html>Bad Gateway</html>"), Unanswered,
         "GET pods: 502 without a message"),
        (httpx.Response(500, json=["a"]), Unanswered, "GET pods: 500 without a message"),
        (httpx.Response(500, json={"detail": "x" * 999}), Unanswered, "GET pods: " + "x" * 300),
        (httpx.Response(403, json={"title": "No"}, headers={"x-request-id": "r7"}), NotAllowed,
         "GET pods: No (request r7)"),
        (httpx.Response(410, json={"detail": "retired"}), ApiError,
         "GET pods: this API is no more; update evengrad. retired"),
        (httpx.Response(200, text="[" * 99999), Unanswered, "GET pods: 200 without JSON"),
        (httpx.Response(200, json={"pods": [{"id": 7}]}), Unanswered,
         "Pod: a reply without a usable id"),
    ],
    ids=lambda value: str(value.status_code) if isinstance(value, httpx.Response) else "",
)  # fmt: skip
def test_refusals_in_the_servers_words(
    answering: Callable[[httpx.Response], RunPod],
    answer: httpx.Response,
    kind: type[ApiError],
    message: str,
) -> None:
    """The server's own message, in one line, shortened, and without the key."""
    with answering(answer) as api, pytest.raises(kind) as caught:
        api.pods()
    assert type(caught.value) is kind
    assert str(caught.value) == message


def test_a_create_that_repeats_a_secret(answering: Callable[[httpx.Response], RunPod]) -> None:
    """Neither a variable's value nor the key is in the error, however long the message."""
    detail = f"{KEY} " + "x" * 275 + " env.A: top secret of mine"
    with (
        answering(httpx.Response(422, json={"detail": detail})) as api,
        pytest.raises(BrokenRule) as caught,
    ):
        api.create({}, ["top secret of mine"])
    assert caught.value.malformed
    assert str(caught.value).endswith("x env.A: <redac"), "it is hidden before it is shortened"
    assert KEY not in str(caught.value)
