"""The end of a run that its trainer could not record itself: out of time, stalled, killed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime

from job.events import GateResult, Reason, RunFinished
from job.events.gates import Verdict
from job.events.log import EventLog, Line, Sink
from job.record.claim import Finished, claim, finished_code, write_result
from job.record.document import Damaged, Document
from job.record.history import counting_backwards
from job.record.lease import Lease
from job.record.run_index import RunIndexStore
from job.record.segments import EventUploader
from job.record.status import Status
from job.spec import JobSpec
from job.store import Store, Unavailable, retry_until
from job.store.base import Result

LEASE_SECONDS = 30.0
"""Of the lease under which a failure is recorded."""


def conclude(
    store: Store,
    spec: JobSpec,
    run_id: str,
    reason: Reason,
    code: int,
    error: str,
    *,
    until: float,
    print_line: Callable[[str], None],
) -> int:
    """Take the run from its dead trainer and write its end: event, run index, result, status.

    Tries again until a time of the monotonic clock while the store is out of reach. `print_line`
    gets the event's line once it is stored. Returns the exit code that stands: the trainer's, if
    that recorded an end right before it died. Raises Unavailable, and what `claim` raises except
    Finished. Of these, Held means that a living process has the run, which has not ended then.
    """
    run = f"{spec.name}/{run_id}"

    def persist(act: Callable[[], Result]) -> Result:
        return retry_until(act, until)

    try:
        claimed = persist(lambda: claim(store, spec, run, take_over=False, must_exist=False))
    except Finished:
        return persist(lambda: finished_code(store, run, spec)) or 0
    event = persist(lambda: _end(spec, counting_backwards(store, run), reason, code, error))
    lines: list[str] = []
    records = EventUploader(store, run, claimed.lease.epoch, spec.checkpoint.offline_minutes * 60)
    sinks: list[Sink] = [records, lambda _, line: lines.append(line)]
    EventLog(run_id, sinks, claimed.last_seq + 1).emit(event)
    document = Document(store, Status.key(run), fenced=False)
    status = Status(
        phase=reason,
        heartbeat=datetime.now(UTC).isoformat(timespec="seconds"),
        step=event.steps,
        epoch=event.epochs,
        exit_code=code,
        error=error,
    )
    for act in (
        lambda: _flush(records),
        lambda: claimed.index.write(claimed.index.body.ended(run_id, event)),
        lambda: write_result(store, run, claimed.index.body),
        lambda: document.write(status.body()),
        claimed.lease.release,
    ):
        persist(act)
    print_line(lines[0])
    return code


def _flush(records: EventUploader) -> None:
    records.flush()
    if records.down_since is not None:
        raise Unavailable("the run's last event waits on this machine")


def record_failure(
    store: Store, run: str, spec_hash: str | None, code: int, error: str, pod: str | None
) -> None:
    """Write to `status.json` why a container failed; the run itself stays open.

    Does nothing to a run that has finished, or was begun with another spec. Raises Held if another
    process has the run, whose status it is then; Fenced, StoreError.
    """
    lease = Lease(store, run, LEASE_SECONDS)
    index = None
    with suppress(Damaged):
        index = RunIndexStore(store, run, fenced=False).read()
    if index is not None and (index.finished is not None or index.spec_hash != spec_hash):
        return
    lease.acquire(index.epoch if index else 0, take_over=False)
    document = Document(store, Status.key(run), fenced=False)
    status = Status(phase="failed")
    with suppress(Damaged):
        status = Status.of(document) or status
    failure = {"phase": "failed", "exit_code": code, "error": error, "pod": pod}
    document.write(status.model_copy(update=failure).body())
    lease.release()


def _end(
    spec: JobSpec, history: Iterable[Line], reason: Reason, code: int, error: str
) -> RunFinished:
    """The end of a run whose events are given, the last one first."""
    step = epoch = 0  # a run that extends another begins with later ones
    seconds = 0.0
    gates: dict[str, GateResult] = {}
    for event in history:
        if event["event"] == "step":
            step = max(step, event["step"])
        elif event["event"] == "epoch":
            epoch, seconds = max(epoch, event["epoch"]), seconds + event["seconds"]
        elif event["event"] == "gate":
            gates.setdefault(event["gate"], _gate(event))
    unreached = Verdict(spec.gates, spec.train.epochs).final(epoch)
    return RunFinished(
        reason=reason,
        exit_code=code,
        gates=[gates.get(gate.gate, gate) for gate in unreached],
        steps=step,
        epochs=epoch,
        seconds=seconds,
        error=error,
    )


def _gate(event: Line) -> GateResult:
    """The verdict of an event; it lacks a measurement that was not finite."""
    names = GateResult.model_fields.keys()
    return GateResult(**{"measured": None} | {k: v for k, v in event.items() if k in names})
