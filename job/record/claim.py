"""Takes a run: gets its lease, then writes an index that names this process."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

from job.errors import Fault, InputError
from job.record.document import Damaged, Fenced, seal
from job.record.history import counting_segments, last_seq, valid_segments
from job.record.layout import is_ours
from job.record.lease import Lease
from job.record.recover_index import checkpoint_folders, rebuild_index
from job.record.result import Result
from job.record.run_index import Fences, RunIndex, RunIndexStore, delete_checkpoint
from job.record.segments import Segment, digest_of
from job.record.spool import Spool
from job.spec import JobSpec
from job.spec.diff import change_faults
from job.spec.stored import completed, has_content, is_stored
from job.store import Missing, Store, StoreError

NAMED = 5
"""Foreign objects that an alarm names; it counts the rest."""
Alarms = list[tuple[str, str]]
"""Kind and message of what a person should know."""


class Refused(Exception):
    """The run cannot be taken; one line says why."""


class Finished(Exception):
    """The run ended while this process waited for the right to write it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the run has finished; its exit code was {code}")
        self.code = code


@dataclass
class Claim:
    """A run that this process holds."""

    store: Store
    run: str
    """Key of the run, `<name>/<run id>`."""
    index: RunIndexStore
    lease: Lease
    fenced: bool
    """True if this process notices that another one takes the run over."""
    last_seq: int
    """The last event of earlier processes that counts."""
    alarms: Alarms = field(default_factory=list)
    """For the run's record."""


def finished_code(store: Store, run: str, spec: JobSpec) -> int | None:
    """The exit code of a finished run; None for any other.

    If the run index is gone or damaged, `result.json` decides. Of a finished run it writes what is
    missing, and deletes checkpoints that the index does not name. Raises StoreError; InputError if
    the run belongs to another spec.
    """
    document = RunIndexStore(store, run, fenced=False)
    index: RunIndex | None = None
    with suppress(Damaged):
        index = document.read()
    result = index.finished if index else Result.read_or_none(store, run)
    spec_hash = index.spec_hash if index else result.spec_hash if result else None
    if spec_hash is not None:
        _check_spec(store, spec, run, spec_hash)
    if result is None:
        return None
    if _stored_spec(store, run) != spec.canonical():
        store.put(f"{run}/spec.json", spec.canonical().encode())
    if index is None:
        _restore_index(document, result)
    else:
        write_result(store, run, index)
        with suppress(StoreError):  # the next start tries again
            _sweep(store, run, index, index.epoch + 1)
    return result.exit_code


def _restore_index(document: RunIndexStore, result: Result) -> None:
    """Write the index of a finished run anew; it stays as it is if no manifest is intact."""
    store, run = document.store, document.run
    with suppress(Damaged):
        index = rebuild_index(store, run)
        if index is None:  # it ended before its first checkpoint
            last = counting_segments(store, run, {})[-1:]
            fences = {segment.epoch: segment.last for segment in last}
            epoch = max(fences, default=1)
            index = RunIndex(epoch=epoch, spec_hash=result.spec_hash, fences=fences)
        document.write(index.model_copy(update={"finished": result}))


def write_result(store: Store, run: str, index: RunIndex) -> None:
    """Copy the end from the index, where it was decided, to `result.json` for readers.

    What is there already is not written again.
    """
    assert index.finished is not None
    content = seal(index.finished.body())
    if _stored(store, Result.key(run)) != content:
        store.put(Result.key(run), content)


def claim(store: Store, spec: JobSpec, run: str, *, take_over: bool, must_exist: bool) -> Claim:
    """Take the run for this process.

    Raises Refused, Held (another process holds it and lives), Fenced (another was faster),
    Finished, Damaged, StoreError; InputError if the run belongs to another spec.
    """
    fenced = _probe(store, spec, run)
    document = RunIndexStore(store, run, fenced)
    index, alarms = _read(store, run, document)
    if index is None and must_exist:
        raise Refused(f"{store.url} holds no run {run} to resume")
    if index is not None:
        _check_spec(store, spec, run, index.spec_hash)
    lease = Lease(store, run, spec.checkpoint.lease_seconds, fenced)
    lease.acquire(_highest_epoch(store, run, index), take_over, _print_waiting)
    last = _enter_soon(spec, document, lease, alarms)
    alarms += _foreign(_sweep(store, run, document.body, lease.epoch))
    if not fenced:
        why = "the store ignores conditional writes: a second process would not be noticed"
        alarms.append(("unfenced", why))
    return Claim(store, run, document, lease, fenced, last, alarms)


def _probe(store: Store, spec: JobSpec, run: str) -> bool:
    """True if the store has conditional writes; raises Refused if the spec needs them."""
    fenced = store.conditional(f"{run}/")
    if not fenced and not spec.checkpoint.unfenced:
        raise Refused(
            f"{store.url} ignores conditional writes, so two processes could overwrite each "
            "other; use another store, or set checkpoint.unfenced in the spec"
        )
    return fenced


def _read(store: Store, run: str, document: RunIndexStore) -> tuple[RunIndex | None, Alarms]:
    """The index, rebuilt if it is gone or damaged, and the alarm that says so."""
    damage: str | None = None
    try:
        index = document.read()
    except Damaged as damaged:
        index, damage = None, str(damaged)
    if index is not None:
        return index, []
    index = rebuild_index(store, run)
    if index is not None:
        why = damage or "latest.json is missing"
        return index, [("head_rebuilt", f"{why}; rebuilt from the checkpoints' manifests")]
    if damage is not None:
        raise Refused(f"{damage}, and there is no intact checkpoint to go on from")
    return None, []


def has_checkpoint(store: Store, run: str) -> bool:
    """True if the run goes on from a checkpoint of its own. Raises Refused, Damaged, StoreError."""
    index, _ = _read(store, run, RunIndexStore(store, run, fenced=False))
    return index is not None and bool(index.named())


def _check_spec(store: Store, spec: JobSpec, run: str, spec_hash: str) -> None:
    """Raises InputError, or Refused, if the run was begun with another spec."""
    if has_content(spec, spec_hash):
        return
    faults: list[Fault] = []
    # The stored spec may be gone, or damaged in any way.
    with suppress(StoreError, ValueError, TypeError, AttributeError, RecursionError):
        before = completed(json.loads(store.get(f"{run}/spec.json").data))
        faults = change_faults(before, json.loads(spec.content()), spec.ABOUT)
    if faults:
        raise InputError(faults)
    raise Refused("the run was begun with another spec; give the new spec another run id")


def _stored_spec(store: Store, run: str) -> str | None:
    content = _stored(store, f"{run}/spec.json")
    return None if content is None else content.decode("utf-8", "replace")


def _stored(store: Store, key: str) -> bytes | None:
    with suppress(Missing):
        return store.get(key).data
    return None


def _highest_epoch(store: Store, run: str, index: RunIndex | None) -> int:
    """The highest lease epoch found in the store or the spool; the next one must be higher.

    If the run was removed from the store while it ran, its lease no longer says so.
    """
    if index is not None:
        return index.epoch
    epochs = [segment.epoch for segment in counting_segments(store, run, {})]
    epochs += [folder.epoch for folder in checkpoint_folders(store, run)]
    epochs += [segment.epoch for segment in _spooled(Spool.of(store, run), [])]
    return max(epochs, default=0)


def _enter_soon(spec: JobSpec, document: RunIndexStore, lease: Lease, alarms: Alarms) -> int:
    """Enter; try again if the former holder changed the index meanwhile."""
    until = time.monotonic() + lease.seconds
    while True:
        try:
            return _enter(spec, document, lease, alarms)
        except Fenced:
            if time.monotonic() > until:
                raise
            lease.renew()  # raises Fenced if this process has lost it, in turn


def _enter(spec: JobSpec, document: RunIndexStore, lease: Lease, alarms: Alarms) -> int:
    """Make the index name this process as its writer; returns the last event that counts."""
    store, run = document.store, document.run
    index, _ = _read(store, run, document)  # it may have moved while this process waited
    if index is not None:
        _check_spec(store, spec, run, index.spec_hash)
        if index.finished is not None:
            lease.release()
            raise Finished(index.finished.exit_code)
    found = _settle_events(store, run, index, lease.epoch)
    alarms += [alarm for alarm in found.alarms if alarm not in alarms]  # it may enter again
    if index is not None and not is_stored(spec, _stored_spec(store, run)):
        alarms.append(("spec_damaged", "spec.json was missing or damaged; it is written anew"))
    store.put(f"{run}/spec.json", spec.canonical().encode())
    now = spec.content_hash()  # an older version's hash of the same content may differ
    before = index or RunIndex(epoch=lease.epoch, spec_hash=now)
    settled = before.settled(lease.epoch, found.last)
    document.write(settled.model_copy(update={"spec_hash": now}))
    return found.last


@dataclass
class _Settled:
    """What counts of the events that earlier processes wrote."""

    last: int
    """Number of the last one."""
    alarms: Alarms = field(default_factory=list)


def _settle_events(store: Store, run: str, index: RunIndex | None, epoch: int) -> _Settled:
    """Decide what counts, now that no earlier process can write an event that does.

    Before that, events that an earlier process kept on this machine are stored.
    """
    settled = _Settled(0)
    fences = index.fences if index else {}
    _send_spooled(store, run, index, epoch, settled.alarms)
    try:
        valid_segments(store, run, fences)
    except Damaged as damaged:
        if index is None:  # left by a run of this name that was removed from the store
            why = f"{damaged}; they are of an earlier run of this name, and none of them counts"
            settled.alarms.append(("events_missing", why))
            return settled
        settled.alarms.append(("events_missing", str(damaged)))
    settled.last = last_seq(store, run, fences)
    return settled


def _send_spooled(
    store: Store, run: str, index: RunIndex | None, epoch: int, alarms: Alarms
) -> None:
    """Store what earlier processes kept on this machine, if it goes on where the events end.

    What does not is set aside: it is of an epoch that is over, or of a run of this name that the
    store lost.
    """
    spool = Spool.of(store, run)
    earlier = [segment for segment in _spooled(spool, alarms) if segment.epoch < epoch]
    if not earlier:
        return
    fences = Fences(index.fences if index else {})
    stored = {entry.key.rpartition("/")[2] for entry in store.list(f"{run}/events/")}
    last = last_seq(store, run, index.fences if index else {})
    left: list[str] = []
    try:
        for segment in earlier:
            if segment.key not in stored:
                data = spool.read(segment.key)
                intact = digest_of(data) == segment.digest
                over = index is None or fences.last(segment.epoch) is not None
                if over or segment.first != last + 1 or not intact:
                    left.append(segment.key)
                    continue
                store.put(f"{run}/events/{segment.key}", data)
                last = segment.last
            spool.remove(segment.key)
        if left:
            where = spool.set_aside(left)
            why = f"events that do not go on from the stored ones were set aside in {where}"
            alarms.append(("events_set_aside", why))
    except OSError as error:
        alarms.append(_spool_alarm(spool, error))


def _spooled(spool: Spool, alarms: Alarms) -> list[Segment]:
    """The segments in a spool, in order; none, and an alarm, if it cannot be read."""
    try:
        named = [Segment.named(name) for name in spool.names()]
    except OSError as error:
        alarms.append(_spool_alarm(spool, error))
        return []
    return sorted((s for s in named if s is not None), key=lambda segment: segment.order)


def _spool_alarm(spool: Spool, error: OSError) -> tuple[str, str]:
    why = f"{spool} cannot be used: {error.strerror or error}; set TMPDIR to another folder"
    return ("spool_unusable", why)


def _print_waiting(seconds: float) -> None:
    print(f"waiting {seconds:g} s: the run's last holder may be alive", file=sys.stderr)


def _sweep(store: Store, run: str, index: RunIndex, epoch: int) -> list[str]:
    """Delete what earlier attempts left half done; returns the names that no run gives.

    Nothing that the index names is deleted. Nothing of `epoch` or a later one either: this process
    may have lost the run by now, and its new holder publishes under its own epoch.
    """
    store.abort_uploads(f"{run}/")
    for folder in checkpoint_folders(store, run):
        if folder.epoch < epoch and folder.name not in index.named():
            delete_checkpoint(store, run, folder.name)
    names = (entry.key.removeprefix(f"{run}/") for entry in store.list(f"{run}/"))
    return [name for name in names if not is_ours(name)]


def _foreign(names: list[str]) -> Alarms:
    """One alarm for all objects under the run that no run writes."""
    if not names:
        return []
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    what = ", ".join(names[:NAMED]) + more
    return [("foreign_objects", f"left alone, as no run writes such names: {what}")]
