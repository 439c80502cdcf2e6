"""The state of a run, from its documents in the store and from its pods."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pydantic import BaseModel

from deploy.exits import (
    CANCELLED,
    JOB_FAILED,
    LOST,
    NOT_FINISHED,
    NOT_FOUND,
    CommandError,
    code_of_reason,
)
from deploy.runpod.models import Pod
from deploy.runs.exit_line import exit_line
from job.record.cancel import is_cancelled
from job.record.document import Contents
from job.record.lease import LeaseRecord
from job.record.pods import Attempt, PodsRecord, RunRef
from job.record.result import Result
from job.record.run_index import RunIndex
from job.record.status import Boots, Status
from job.store import Missing, Store, open_store

MOVING = ("training", "saving")
"""Phases in which the remaining time can be estimated."""
STANDING = ("interrupted", "killed")
"""Phases of a run whose process has ended before the run has."""
FRESH_SECONDS = 90.0
"""Age of a heartbeat, by this machine's clock, up to which a run counts as alive."""
CODE_OF_PHASE = {"cancelled": CANCELLED, "failed": JOB_FAILED, "lost": LOST}
"""Exit codes of `status` for a run without a result."""


class RunState(BaseModel):
    """One run at one moment."""

    run: str
    """`<name>/<run id>`."""
    store: str
    state: str
    """`submitted`, `starting`, `training`, …: the phase that the run stored last. Or `silent`:
    nothing stored for some time; `killed`: its process on this machine is gone; `lost`: it has no
    pod left; `failed`; `finished`."""
    epoch: int | None = None
    epochs: int | None = None
    """Of the whole run, like `steps`."""
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
    """Since its first pod was requested."""
    heartbeat_seconds: float | None = None
    """Since its last heartbeat, by the pod's clock and this machine's."""
    reason: str | None = None
    """Why it ended."""
    control: bool = False
    """True if it ended as a control, whose targets are permuted: it is no run of its job."""
    error: str | None = None
    pod_listed: bool | None = None
    """Whether RunPod lists a pod of it; None if RunPod was not asked."""
    resume_command: str | None = None
    """The command that resumes it; None while it runs, or will go on by itself."""
    exit_code: int
    """What `status` ends with."""

    @property
    def is_fresh(self) -> bool:
        """True if its last heartbeat is recent."""
        return self.heartbeat_seconds is not None and self.heartbeat_seconds < FRESH_SECONDS


def read_state(
    run: RunRef, now: datetime, pods: Iterable[Pod] | None, store: Store | None = None
) -> RunState:
    """A run's state.

    pods: all pods of the account; None if RunPod was not asked. store: the run's, if it is open.
    Raises CommandError if there is no such run, StoreError.
    """
    store = store or open_store(run.store)
    documents = Documents.read(store, run.run)
    if documents == Documents():
        raise CommandError(NOT_FOUND, f"{store.url} holds no run {run.run}")
    record, result = documents.pods, documents.result
    status = documents.status or Status(phase="?")
    mine = None if pods is None else [p for p in pods if run.owns(p.name, p.variables)]
    beat = (now - status.written_at).total_seconds() if status.written_at else None
    state = phase(documents, mine, beat)
    code = CODE_OF_PHASE.get(state, NOT_FINISHED)
    return RunState(
        run=run.run,
        store=run.store,
        state=state,
        epoch=status.epoch,
        step=status.step,
        steps=status.steps,
        epochs=_epochs(store, run.run),
        eta_seconds=status.eta_seconds if state in MOVING else None,
        losses=status.losses,
        **_costs(record, not mine and (mine is not None or result is not None), now, beat),
        heartbeat_seconds=beat,
        pod_listed=None if mine is None else bool(mine),
        reason=result.reason if result else None,
        control=result is not None and result.control,
        error=_error(documents, mine or ()),
        resume_command=resume_command(run, state, documents),
        exit_code=code_of_reason(result.reason) if result else code,
    )


def state_of_pod(pod: Pod) -> RunState:
    """What RunPod alone knows of a pod whose run cannot be read."""
    return RunState(
        run=pod.name,
        store=pod.variables.get("EVENGRAD_STORE", ""),
        state=f"pod {pod.status}",
        gpu=pod.gpu.id if pod.gpu else None,
        pod_id=pod.id,
        cost_per_hour=pod.cost,
        pod_listed=True,
        error="its run cannot be read",
        exit_code=NOT_FINISHED,
    )


class Documents(NamedTuple):
    """A run's documents; None for one that is missing or damaged."""

    pods: PodsRecord | None = None
    submitted: bool = False
    """True if there is a pods record, damaged or not."""
    status: Status | None = None
    result: Result | None = None
    boots: Boots | None = None
    lease: LeaseRecord | None = None
    cancelled: bool = False
    begun: bool = False
    """True if there is a run index."""

    @classmethod
    def read(cls, store: Store, run: str) -> Documents:
        """All of a run; raises StoreError."""
        pods = PodsRecord.read_or_none(store, run)
        return cls(
            pods=pods,
            submitted=pods is not None or _exists(PodsRecord, store, run),
            status=Status.read_or_none(store, run),
            result=Result.read_or_none(store, run),
            boots=Boots.read_or_none(store, run),
            lease=LeaseRecord.read_or_none(store, run),
            cancelled=is_cancelled(store, run),
            begun=_exists(RunIndex, store, run),
        )

    @property
    def last_attempt(self) -> Attempt | None:
        """The newest attempt to rent a pod."""
        return self.pods.attempts[-1] if self.pods is not None and self.pods.attempts else None

    @property
    def has_failed(self) -> bool:
        """True if the container stored a failure, or the newest pod's log named one."""
        last, status = self.last_attempt, self.status
        stored = status is not None and status.exit_code is not None
        if stored and last is not None and status is not None and status.pod is not None:
            stored = last.pod in (None, status.pod)  # else an earlier pod's end: the run goes on
        return stored or (last is not None and exit_line(last.why) is not None)


def _exists(kind: type[Contents], store: Store, run: str) -> bool:
    with suppress(Missing):
        store.get(kind.key(run))
        return True
    return False


def _epochs(store: Store, run: str) -> int | None:
    """Epochs of the whole run, from its spec."""
    with suppress(Missing, ValueError, KeyError, TypeError, RecursionError):
        return int(json.loads(store.get(f"{run}/spec.json").data)["train"]["epochs"])
    return None


def _costs(
    record: PodsRecord | None, has_gone: bool, now: datetime, beat: float | None
) -> dict[str, Any]:
    """GPU, pod and costs from the record.

    has_gone: whether no pod of the run is left. One that the record does not close counts up to
    the last heartbeat then, which is `beat` seconds ago.
    """
    if record is None or not record.attempts:
        return {}
    last = next((a for a in reversed(record.attempts) if a.pod), record.attempts[-1])
    until = now - timedelta(seconds=max(0.0, beat)) if has_gone and beat is not None else now
    return {
        "gpu": last.gpu,
        "pod_id": last.pod,
        "cost_per_hour": last.cost,
        "spent_usd": round(record.spent(until), 4),
        "deadline": record.deadline,
        "age_seconds": (now - min(a.intended for a in record.attempts)).total_seconds(),
    }


def _error(documents: Documents, mine: Iterable[Pod]) -> str | None:
    """Why the run failed, or what is wrong with its pods: in the run's own words, if it has any."""
    if documents.result:
        return documents.result.error
    stored, last = _stored_error(documents.status), documents.last_attempt
    if stored is None and last is not None and last.ended is not None:
        stored = exit_line(last.why) or last.why or None
    if dead := next((pod for pod in mine if pod.is_dead), None):
        costs = f"pod {dead.id} is {dead.status} and may still cost money for its disk"
        return f"{costs}; {stored}" if stored else costs
    return stored


def _stored_error(status: Status | None) -> str | None:
    """`exit N: …`, as the container's log has it, of a container that stored why it ended."""
    if status is None or status.error is None:
        return None
    return status.error if status.exit_code is None else f"exit {status.exit_code}: {status.error}"


def phase(documents: Documents, mine: list[Pod] | None, beat: float | None) -> str:
    """The run's state in a word.

    mine: the run's pods, None if RunPod was not asked. beat: the age of its heartbeat in seconds.
    """
    if documents.result:
        return "finished"
    record = documents.pods
    if record is None and not mine:  # a run of this machine has no pods
        mine = None
    status, lease = documents.status, documents.lease
    gone = lease is not None and lease.is_orphaned
    fresh = beat is not None and beat < FRESH_SECONDS and not gone
    alive = fresh if mine is None else any(not pod.is_dead for pod in mine)
    if documents.cancelled:
        return "cancelling" if alive else "cancelled"
    if documents.has_failed and not (alive and mine):
        return "failed"
    if mine is not None and not alive:
        rented = any(attempt.pod for attempt in record.attempts) if record else True
        return "lost" if rented else "not rented"
    stored = status.phase if status is not None else "?"
    released = lease is not None and lease.released
    if stored == "interrupted" and (gone or released):  # however long ago
        return stored
    if gone:
        return "killed"
    if beat is None:
        return "starting" if documents.boots else "submitted"
    return stored if fresh else "silent"


def resume_command(run: RunRef, state: str, documents: Documents) -> str | None:
    """The command that resumes a run that stands still; None if a container may do so itself."""
    if documents.submitted:
        stands = state in ("failed", "lost", "not rented")
        return f"python -m deploy.submit --resume {run.run_id}" if stands else None
    if state == "failed" or (state in STANDING and documents.boots is None):
        store = shlex.quote(run.store)
        return f"python -m job run SPEC --run-id {run.run_id} --store {store}"
    return None
