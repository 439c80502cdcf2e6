"""Going on for longer: a new run that begins with the whole state of another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from job.checkpoint.restore import Restored
from job.data.dataset import Dataset
from job.errors import Fault, InputError
from job.record.pods import RunRef
from job.run.start_from import NamedRun, checkpoint_of, origin_of
from job.spec import JobSpec, Plateau, Steps
from job.spec.diff import Difference, differences
from job.spec.stored import parse_stored
from job.store import Missing, open_store
from job.train.state import POSITION, TrainState
from job.train.stopping import is_over, watched_scores
from job.train.updates.schedule import schedule_factor, steps_per_epoch

WHERE = "$.extends"
MAY_DIFFER = (
    *("$.train.epochs", "$.train.early_stop", "$.train.device", "$.train.threads", "$.gates"),
    *("$.log.every", "$.log.audit_every", "$.checkpoint", "$.resources"),
    *("$.extends", "$.label", "$.notes"),
)
"""What a run may have otherwise than the one that it extends."""


class _Former(NamedTuple):
    """The run that is extended, at the checkpoint that was read."""

    ref: RunRef
    spec: JobSpec
    found: Restored
    at: TrainState


def extension(spec: JobSpec, data: Dataset, store: str | None) -> Restored:
    """The state with which a run of the spec begins that extends another.

    store: of the new run. Raises InputError if there is no such run, if it is damaged, if the spec
    differs from its spec in more than `MAY_DIFFER`, or if nothing is left to train; StoreError.
    """
    former = _former(spec, data.folder, store)
    changes = _changes(former.spec, spec)
    per_epoch = steps_per_epoch(spec.train, len(data.train))
    at, manifest = former.at, former.found.manifest
    for name in watched_scores(spec):  # what was not watched before counts from here on
        at.best_epoch.setdefault(name, at.epoch)
    _check(spec, former, changes, per_epoch)
    origin = origin_of("extends", former.ref, former.found).model_copy(
        update={
            "changed": [f"{where}: {was} → {now}" for where, was, now in _written(changes)],
            "schedule": schedule_words(former.spec, spec, at, per_epoch),
        }
    )
    at.test = {}  # it is measured after the new last epoch
    values = manifest.values | {
        "position": json.loads(POSITION.dump_json(at)),
        "gates": _standing(former, spec),
        "origin": origin.model_dump(),
    }
    # No event of the new run is in the past of this state.
    return former.found._replace(
        manifest=manifest.model_copy(update={"values": values, "next_seq": 1})
    )


def _former(spec: JobSpec, folder: Path, store: str | None) -> _Former:
    assert spec.extends is not None
    ref, found = checkpoint_of(NamedRun(spec.extends, WHERE, store, folder), "last", WHERE)
    try:
        text = open_store(ref.store).get(f"{ref.run}/spec.json").data.decode("utf-8", "replace")
    except Missing:
        rule, remedy = "its spec.json says what it has trained", "name another run"
        fault = Fault(WHERE, f"run {ref.run} without its spec", rule, remedy)
        raise InputError([fault]) from None
    before = parse_stored(text, f"{ref.run}/spec.json")
    return _Former(ref, before, found, POSITION.validate_python(found.manifest.values["position"]))


def _changes(before: JobSpec, now: JobSpec) -> list[Difference]:
    return differences([json.loads(spec.canonical()) for spec in (before, now)])


def _written(changes: Sequence[Difference]) -> Iterator[tuple[str, str, str]]:
    """Where, before and now, as JSON."""
    for where, (before, now) in changes:
        if where not in ("$.extends", "$.label", "$.notes"):
            yield where, json.dumps(before), json.dumps(now)


def _may_differ(where: str) -> bool:
    return any(where == each or where.startswith((f"{each}.", f"{each}[")) for each in MAY_DIFFER)


def _check(spec: JobSpec, former: _Former, changes: Sequence[Difference], per_epoch: int) -> None:
    """Raise InputError unless the run can go on as the spec says."""
    run, at = former.ref.run, former.at
    remedy = f"set it back; only {', '.join(each[2:] for each in MAY_DIFFER[:-3])} may differ"
    faults = [
        Fault(where, json.dumps(now), f"run {run}, which it extends, has {json.dumps(was)}", remedy)
        for where, (was, now) in changes
        if not _may_differ(where)
    ]
    if not faults and at.step != at.epoch * per_epoch + at.batch:
        found = f"data of {per_epoch} steps an epoch"
        rule = f"run {run} took {at.step - at.batch} steps in {at.epoch} epochs"
        faults.append(Fault("$.data.path", found, rule, "supply the data of that run"))
    if not faults and at.epoch >= spec.train.epochs:
        rule = f"run {run} has finished {at.epoch} epochs"
        where, found = "$.train.epochs", str(spec.train.epochs)
        faults.append(Fault(where, found, rule, f"set it to more than {at.epoch}"))
    elif not faults and is_over(spec, at):
        rule = f"it has ended run {run} after epoch {at.epoch}, and would end this one at once"
        where, found = "$.train.early_stop", "the same early stop"
        faults.append(Fault(where, found, rule, "raise its patience, or remove it"))
    if not faults:
        faults += _past_gates(former, spec)
    if faults:
        raise InputError(faults)


def _past_gates(former: _Former, spec: JobSpec) -> Iterator[Fault]:
    """A fault for each gate that is read at an epoch that is over, and was not read then."""
    for i, gate in enumerate(spec.gates):
        past = gate.by_epoch is not None and gate.by_epoch <= former.at.epoch
        if past and str(i) not in _standing(former, spec):
            rule = (
                f"run {former.ref.run} had no such gate, and has finished {former.at.epoch} epochs"
            )
            remedy = f"read it after epoch {former.at.epoch}, or remove it"
            yield Fault(f"$.gates[{i}].by_epoch", str(gate.by_epoch), rule, remedy)


def _standing(former: _Former, spec: JobSpec) -> dict[str, Any]:
    """The verdicts that stand, by the gate's place in the spec: those read at their own epoch."""
    results, gates = former.found.manifest.values["gates"], former.spec.gates
    read = {
        gates[int(i)]: result
        for i, result in results.items()
        if result["epoch"] == gates[int(i)].by_epoch
    }
    return {str(i): read[gate] for i, gate in enumerate(spec.gates) if gate in read}


def schedule_words(before: JobSpec, now: JobSpec, at: TrainState, per_epoch: int) -> str:
    """What the learning rate does from a position on."""
    schedule = now.train.schedule
    if schedule == "constant":
        return "the learning rate stays as it is"
    if isinstance(schedule, Steps):
        return f"the learning rate still falls every {schedule.every} epochs of the whole"
    if isinstance(schedule, Plateau):
        return f"the learning rate has fallen {at.falls} times on a plateau, and goes on from there"
    was, begins = (
        schedule_factor(train, step, per_epoch * train.epochs, per_epoch, at.falls)
        for train, step in ((before.train, at.step - 1), (now.train, at.step))
    )
    return (
        f"the schedule {schedule} now spans {now.train.epochs} epochs, and goes on from where step "
        f"{at.step + 1} lies in them: {begins:.3g} of the learning rate, "
        f"after {was:.3g} at the last step"
    )
