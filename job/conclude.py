"""The end of a run that its trainer could not record itself: out of time, stalled, killed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from job.claim import Finished, claim, finished_code, write_result
from job.document import Body, Damaged, Document
from job.events import GateResult, Reason, RunFinished
from job.gates import Verdict
from job.head import HeadDocument
from job.history import read_history
from job.journal import Journal, Line, Sink
from job.lease import Lease
from job.records import Records
from job.spec import JobSpec
from job.store import Result, Store, Unavailable, patiently


def conclude(
    store: Store,
    spec: JobSpec,
    run_id: str,
    reason: Reason,
    code: int,
    error: str,
    *,
    until: float,
    tell: Callable[[str], None],
) -> int:
    """Take the run from its dead trainer and write its end: event, head, result, status.

    Tries again, until a time of the monotonic clock, while the store is out of reach. `tell` is
    given the event's line once it is stored. Returns the exit code that stands: the trainer's,
    where that recorded an end right before it died. Raises what `claim` raises but Finished, Held
    among it where a living process has the run, whose end this is not then; and Unavailable.
    """
    run = f"{spec.name}/{run_id}"

    def store_it(act: Callable[[], Result]) -> Result:
        return patiently(act, until)

    try:
        claimed = store_it(lambda: claim(store, spec, run, take_over=False, must_exist=False))
    except Finished:
        return store_it(lambda: finished_code(store, run, spec)) or 0
    told = store_it(lambda: read_history(store, run))
    event = _end(spec, told, reason, code, error)
    lines: list[str] = []
    records = Records(store, run, claimed.lease.epoch, spec.checkpoint.offline_minutes * 60)
    sinks: list[Sink] = [records, lambda _, line: lines.append(line)]
    Journal(run_id, sinks, claimed.last_seq + 1).emit(event)
    status = Document(store, f"{run}/status.json", fenced=False)
    last = {"step": event.steps, "epoch": event.epochs, "error": error}
    for act in (
        lambda: _flush(records),
        lambda: claimed.head.write(claimed.head.body.ended(run_id, event)),
        lambda: write_result(store, run, claimed.head.body),
        lambda: status.write({"schema": 1, "phase": reason, "exit_code": code, **last}),
        claimed.lease.release,
    ):
        store_it(act)
    tell(lines[0])
    return code


def _flush(records: Records) -> None:
    records.flush()
    if records.down_since is not None:
        raise Unavailable("the run's last event waits locally")


def note(store: Store, spec: JobSpec, run_id: str, code: int, error: str) -> None:
    """Tell in `status.json` why a trainer failed that perhaps could not; the run stays open.

    Raises Held where another process has the run, whose status it is then; Fenced, StoreError.
    """
    run = f"{spec.name}/{run_id}"
    lease = Lease(store, run, spec.checkpoint.lease_seconds)
    head = None
    with suppress(Damaged):
        head = HeadDocument(store, run, fenced=False).read()
    if head is not None and head.finished is not None:
        return
    lease.acquire(head.epoch if head else 0, take_over=False)
    status = Document(store, f"{run}/status.json", fenced=False)
    before: Body = {}
    with suppress(Damaged):
        before = status.read() or {}
    why = {"phase": "failed", "exit_code": code, "error": error or f"the trainer ended with {code}"}
    status.write({**before, "schema": 1, **why})
    lease.release()


def _end(spec: JobSpec, told: list[Line], reason: Reason, code: int, error: str) -> RunFinished:
    epochs = [e for e in told if e["event"] == "epoch"]
    return RunFinished(
        reason=reason,
        exit_code=code,
        gates=_gates(spec, told, len(epochs)),
        steps=max((e["step"] for e in told if e["event"] == "step"), default=0),
        epochs=len(epochs),
        seconds=sum(e["seconds"] for e in epochs),
        error=error,
    )


def _gates(spec: JobSpec, told: list[Line], epoch: int) -> list[GateResult]:
    """The verdicts that were told, and for the other gates that they were not reached."""
    names = GateResult.model_fields.keys()
    known = {
        e["gate"]: GateResult(**{"measured": None} | {k: v for k, v in e.items() if k in names})
        for e in told
        if e["event"] == "gate"
    }
    unread = Verdict(spec.gates, spec.train.epochs).final(epoch)
    return [known.get(gate.gate, gate) for gate in unread]
