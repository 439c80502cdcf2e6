"""What is known of a run, from its documents in the store and from its pods."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from deploy.book import Book, Found, read_book
from deploy.ends import NOT_FINISHED, NOT_FOUND, Stop
from deploy.phase import CODE_OF_PHASE, FRESH_SECONDS, again, code_of, phase
from deploy.runpod_api import Pod
from job.document import Body, Damaged
from job.history import read_document
from job.store import Missing, Store, open_store


class State(BaseModel):
    """One run at one moment."""

    run: str
    """`<name>/<run id>`."""
    store: str
    state: str
    """submitted, starting, training, …: the phase that the run told last; silent: it told nothing
    for some time; killed: its process on this machine is gone; lost: no pod of it is left; or
    finished."""
    epoch: int | None = None
    epochs: int | None = None
    """Of the whole run, as are the steps."""
    step: int | None = None
    steps: int | None = None
    eta_seconds: float | None = None
    losses: dict[str, float | None] = {}
    """By task, training split, original units."""
    gpu: str | None = None
    pod_id: str | None = None
    cost_per_hour: float | None = None
    spent_usd: float | None = None
    deadline: datetime | None = None
    """When its pods end themselves at the latest."""
    age_seconds: float | None = None
    """Since its first pod was asked for."""
    heartbeat_seconds: float | None = None
    """Since its last heartbeat, by the pod's clock and this machine's."""
    reason: str | None = None
    """Why it ended."""
    error: str | None = None
    pod_listed: bool | None = None
    """Whether RunPod lists a pod of it; None where it was not asked."""
    again: str | None = None
    """The command that goes on with it, where it does not run and will not by itself."""
    exit_code: int
    """What `status` ends with."""

    @property
    def is_fresh(self) -> bool:
        """Whether it has told of itself lately."""
        return self.heartbeat_seconds is not None and self.heartbeat_seconds < FRESH_SECONDS


def read_state(found: Found, now: datetime, pods: Iterable[Pod] | None) -> State:
    """A run's state; pods: those of the account, None where it was not asked.

    Raises Stop for a run that is not there, StoreError.
    """
    store = open_store(found.store)
    documents = {name: _document(store, found.run, name) for name in DOCUMENTS}
    if not any(documents.values()):
        raise Stop(NOT_FOUND, f"{store.url} holds no run {found.run}")
    book = read_book(documents["pods.json"])
    status, result = documents["status.json"] or {}, documents["result.json"]
    mine = None if pods is None else [p for p in pods if found.owns(p.name, p.variables)]
    beat = _age(status.get("heartbeat"), now)
    state = phase(documents, book, mine, beat)
    code = code_of(result["reason"]) if result else CODE_OF_PHASE.get(state, NOT_FINISHED)
    return State(
        run=found.run,
        store=found.store,
        state=state,
        **{key: status.get(key) for key in ("epoch", "step", "steps")},
        epochs=_epochs(store, found.run),
        eta_seconds=status.get("eta_seconds") if state in MOVING else None,
        losses=status.get("losses") or {},
        **_money(book, mine, now, beat),
        heartbeat_seconds=beat,
        pod_listed=None if mine is None else bool(mine),
        reason=result["reason"] if result else None,
        error=(result or status).get("error"),
        again=again(found, state, documents),
        exit_code=code,
    )


def bare(pod: Pod) -> State:
    """What RunPod alone knows."""
    return State(
        run=pod.name,
        store=pod.variables.get("EVENGRAD_STORE", ""),
        state=f"pod {pod.status}",
        gpu=pod.gpu.id if pod.gpu else None,
        pod_id=pod.id,
        cost_per_hour=pod.cost,
        pod_listed=True,
        error="of its run nothing can be read",
        exit_code=NOT_FINISHED,
    )


DOCUMENTS = (
    *("pods.json", "status.json", "result.json", "boots.json", "cancel.json", "latest.json"),
    "lease.json",
)
MOVING = ("training", "saving")
"""Phases in which the rest of a run can be foretold."""


def _document(store: Store, run: str, name: str) -> Body | None:
    with suppress(Damaged):
        return read_document(store, run, name)
    return {}


def _epochs(store: Store, run: str) -> int | None:
    """Of the whole run, as its spec says."""
    with suppress(Missing, ValueError, KeyError):
        return int(json.loads(store.get(f"{run}/spec.json").data)["train"]["epochs"])
    return None


def _money(
    book: Book | None, mine: list[Pod] | None, now: datetime, beat: float | None
) -> dict[str, Any]:
    """What the book tells of the run's pods.

    One that nobody closed and that is no more counts to the run's last heartbeat.
    """
    if book is None or not book.attempts:
        return {}
    last = next((a for a in reversed(book.attempts) if a.pod), book.attempts[-1])
    until = now
    if mine is not None and not mine and beat is not None:
        until = now - timedelta(seconds=max(0.0, beat))
    return {
        "gpu": last.gpu,
        "pod_id": last.pod,
        "cost_per_hour": last.cost,
        "spent_usd": round(book.spent(until), 4),
        "deadline": book.deadline,
        "age_seconds": (now - min(a.intended for a in book.attempts)).total_seconds(),
    }


def _age(told: Any, now: datetime) -> float | None:
    with suppress(TypeError, ValueError):
        return (now - datetime.fromisoformat(told).astimezone(UTC)).total_seconds()
    return None
