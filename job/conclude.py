"""The end of a run that its trainer could not record itself: out of time, stalled, killed."""

from __future__ import annotations

from contextlib import suppress

from job.claim import Claim, Finished, claim, finished_code, write_result
from job.document import Body, Damaged, Document
from job.events import GateResult, Reason, RunFinished
from job.gates import Verdict
from job.head import HeadDocument
from job.history import read_history
from job.journal import Journal, Line, print_line
from job.lease import Lease
from job.records import Records
from job.spec import JobSpec
from job.store import Store, Unavailable


def conclude(
    store: Store, spec: JobSpec, run_id: str, reason: Reason, code: int, error: str
) -> int:
    """Take the run from its dead trainer and write its end: event, head, result, status.

    Returns the exit code that stands: the trainer's, where that recorded an end right before it
    died. Raises what `claim` raises but Finished, UploadFailed and StoreError.
    """
    run = f"{spec.name}/{run_id}"
    try:
        claimed = claim(store, spec, run, take_over=True, must_exist=False)
    except Finished:
        return finished_code(store, run, spec) or 0
    event = _end(spec, read_history(store, run), reason, code, error)
    _record(claimed, run_id, event, spec.checkpoint.offline_minutes * 60)
    write_result(store, run, claimed.head.body)
    claimed.lease.release()
    return code


def note(store: Store, spec: JobSpec, run_id: str, code: int, error: str) -> None:
    """Tell in `status.json` why a trainer failed that perhaps could not; the run stays open.

    Raises Held where another process has the run, whose status it is then; Fenced, StoreError.
    """
    run = f"{spec.name}/{run_id}"
    lease = Lease(store, run, spec.checkpoint.lease_seconds)
    head = None
    with suppress(Damaged):
        head = HeadDocument(store, run, fenced=False).read()
    lease.acquire(head.epoch if head else 0, take_over=False)
    status = Document(store, f"{run}/status.json", fenced=False)
    before: Body = {}
    with suppress(Damaged):
        before = status.read() or {}
    phase = before.get("phase") if before.get("error") else "failed"
    status.write({"error": error, **before, "schema": 1, "phase": phase, "exit_code": code})
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


def _record(claimed: Claim, run_id: str, event: RunFinished, offline_seconds: float) -> None:
    store, run, lease = claimed.store, claimed.run, claimed.lease
    records = Records(store, run, lease.epoch, offline_seconds)
    Journal(run_id, [print_line, records], claimed.last_seq + 1).emit(event)
    records.flush()
    if records.down_since is not None:
        raise Unavailable("the run's last event waits locally")
    claimed.head.write(claimed.head.body.ended(run_id, event))
    status = Document(store, f"{run}/status.json", fenced=False)
    told = {"step": event.steps, "epoch": event.epochs, "error": event.error}
    status.write({"schema": 1, "phase": event.reason, "exit_code": event.exit_code, **told})
