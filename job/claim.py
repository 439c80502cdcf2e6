"""Taking a run: from whatever lies in the store to the right to write, and a head that says so."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from job.document import Damaged, Fenced, seal
from job.faults import Fault, InputError
from job.head import Head, HeadDocument, delete_checkpoint
from job.history import last_seq, valid_segments
from job.lease import Lease
from job.rebuild import rebuilt
from job.records import Segment, spool_of, upload
from job.spec import JobSpec
from job.spec_diff import differences
from job.store import Missing, Store, StoreError


class Refused(Exception):
    """The run cannot be taken; one line says why."""


class Finished(Exception):
    """The run ended while the right to write it was waited for."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the run has finished; its exit code was {code}")
        self.code = code


@dataclass
class Claim:
    """A run that this process holds."""

    store: Store
    run: str
    """Key of the run, `<name>/<run id>`."""
    head: HeadDocument
    lease: Lease
    fenced: bool
    """Whether another process that takes over is noticed."""
    last_seq: int
    """The last event that counts of those before."""
    alarms: list[tuple[str, str]] = field(default_factory=list)
    """Kind and message of what was found amiss."""


def finished_code(store: Store, run: str, spec: JobSpec) -> int | None:
    """The exit code of a finished run, None for any other.

    Completes a `result.json` that was left out, and a spec.json that is not as it was written.

    Raises StoreError; InputError where the run belongs to another spec.
    """
    head = HeadDocument(store, run, fenced=False)
    with suppress(Damaged):  # taking the run will deal with it
        found = head.read()
        _same_spec(store, spec, run, found)
        if found is not None and found.finished is not None:
            if _stored_spec(store, run) != spec.canonical().encode():
                store.put(f"{run}/spec.json", spec.canonical().encode())
            write_result(store, run, found)
            return int(found.finished["exit_code"])
    return None


def write_result(store: Store, run: str, head: Head) -> None:
    """Copy the end from the head, where it was decided, to `result.json` for readers."""
    assert head.finished is not None
    store.put(f"{run}/result.json", seal(head.finished))


def claim(store: Store, spec: JobSpec, run: str, *, take_over: bool, must_exist: bool) -> Claim:
    """Take the run for this process.

    Raises Refused, Held (another process holds it and lives), Fenced (another was faster),
    Finished, Damaged, StoreError; InputError where the run belongs to another spec.
    """
    fenced = _probe(store, spec, run)
    document = HeadDocument(store, run, fenced)
    head, alarms = _read(store, run, document)
    if head is None and must_exist:
        raise Refused(f"{store.url} holds no run {run} to resume")
    _same_spec(store, spec, run, head)
    lease = Lease(store, run, spec.checkpoint.lease_seconds, fenced)
    lease.acquire(head.epoch if head else 0, take_over, _say_waiting)
    last = _enter_soon(spec, document, lease, alarms)
    _sweep(store, run, document, lease.epoch)
    if not fenced:
        why = "the store ignores conditional writes: a second process would not be noticed"
        alarms.append(("unfenced", why))
    return Claim(store, run, document, lease, fenced, last, alarms)


def _probe(store: Store, spec: JobSpec, run: str) -> bool:
    fenced = store.conditional(f"{run}/")
    if not fenced and not spec.checkpoint.unfenced:
        raise Refused(
            f"{store.url} ignores conditional writes, so two processes could overwrite each "
            "other; use another store, or set checkpoint.unfenced in the spec"
        )
    return fenced


def _read(
    store: Store, run: str, document: HeadDocument
) -> tuple[Head | None, list[tuple[str, str]]]:
    """The head, rebuilt where it is gone or damaged, and what is to be told of that."""
    damage: str | None = None
    try:
        head = document.read()
    except Damaged as damaged:
        head, damage = None, str(damaged)
    if head is not None:
        return head, []
    head = rebuilt(store, run)
    if head is not None:
        why = damage or "latest.json is missing"
        return head, [("head_rebuilt", f"{why}; rebuilt from the checkpoints' manifests")]
    if damage is not None:
        raise Refused(f"{damage}, and there is no intact checkpoint to go on from")
    return None, []


def _same_spec(store: Store, spec: JobSpec, run: str, head: Head | None) -> None:
    if head is None or head.spec_hash == spec.content_hash():
        return
    faults: list[Fault] = []
    with suppress(StoreError, ValueError):  # it may be gone, or damaged
        before = json.loads(store.get(f"{run}/spec.json").data)
        faults = list(differences(before, json.loads(spec.canonical())))
    if faults:
        raise InputError(faults)
    raise Refused("the run was begun with another spec; give the new spec another run id")


def _stored_spec(store: Store, run: str) -> bytes | None:
    with suppress(Missing):
        return store.get(f"{run}/spec.json").data
    return None


def _enter_soon(
    spec: JobSpec, document: HeadDocument, lease: Lease, alarms: list[tuple[str, str]]
) -> int:
    """Enter, however fast the former holder publishes until it sees that its lease is gone."""
    until = time.monotonic() + lease.seconds
    while True:
        try:
            return _enter(spec, document, lease, alarms)
        except Fenced:
            if time.monotonic() > until:
                raise
            lease.renew()  # raises Fenced where this process has lost it, in turn


def _enter(
    spec: JobSpec, document: HeadDocument, lease: Lease, alarms: list[tuple[str, str]]
) -> int:
    """Make the head say who writes from now on; returns the last event that counts."""
    store, run = document.store, document.run
    head, _ = _read(store, run, document)  # it may have moved while the lease was waited for
    _same_spec(store, spec, run, head)
    if head is not None and head.finished is not None:
        lease.release()
        raise Finished(head.finished["exit_code"])
    last = _settle_events(store, run, head, lease.epoch, alarms)
    fences = dict(head.fences) if head else {}
    fences |= {past: last for past in range(1, lease.epoch) if past not in fences}
    if head is not None and _stored_spec(store, run) != spec.canonical().encode():
        alarms.append(("spec_damaged", "spec.json was missing or damaged; it is written anew"))
    store.put(f"{run}/spec.json", spec.canonical().encode())
    body = head or Head(epoch=lease.epoch, spec_hash=spec.content_hash())
    document.write(body.model_copy(update={"epoch": lease.epoch, "fences": fences}))
    return last


def _settle_events(
    store: Store, run: str, head: Head | None, epoch: int, alarms: list[tuple[str, str]]
) -> int:
    """The last event that counts, now that an earlier process can write none that does."""
    spooled = [Segment.named(str(path)) for path in spool_of(store, run).glob("*.jsonl")]
    earlier = sorted(Path(s.key) for s in spooled if s is not None and s.epoch < epoch)
    if head is None:  # what waits there is of a run of this name that the store lost
        for path in earlier:
            path.unlink(missing_ok=True)
        return last_seq(store, run, {})
    # What an earlier process could not send from this machine, before it is settled what counts.
    upload(store, run, earlier)
    try:
        valid_segments(store, run, head.fences)
    except Damaged as damaged:
        alarm = ("events_missing", str(damaged))
        alarms += [alarm] if alarm not in alarms else []  # entered again
    return last_seq(store, run, head.fences)


def _say_waiting(seconds: float) -> None:
    print(f"waiting {seconds:g} s: the run's last holder may be alive", file=sys.stderr)


def _sweep(store: Store, run: str, document: HeadDocument, epoch: int) -> None:
    """Remove what earlier attempts left half done: nothing that the head names.

    Nothing of this epoch or a later one either: this process may have lost the run by now, and
    who has taken it publishes under its own epoch.
    """
    store.abort_uploads(f"{run}/")
    folders = {
        "/".join(entry.key.removeprefix(f"{run}/").split("/")[:2])
        for entry in store.list(f"{run}/checkpoints/")
    }
    for folder in sorted(folders - document.body.named()):
        if int(folder.rpartition("-")[2]) < epoch:
            delete_checkpoint(store, run, folder)
