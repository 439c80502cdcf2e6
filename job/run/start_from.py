"""Beginning with the network of another run: its checkpoint, verified, as tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from job.checkpoint.restore import Restored, load
from job.data.dataset import Dataset
from job.errors import Fault, InputError
from job.events import Origin
from job.model.start.names import fits
from job.record.document import Damaged
from job.record.pods import RunRef
from job.record.run_index import RunIndex
from job.runs.find import choose_checkpoint, the_run
from job.spec import JobSpec, Python
from job.store import Missing, open_store
from job.train.resume import named_now

WHERE = "$.model.start_from"
NETWORK, AVERAGE = "model.", "ema."
"""How the names of a network's tensors begin in a checkpoint, and those of its average's."""


def with_start(data: Dataset, spec: JobSpec, store: str | None) -> Dataset:
    """The data with the tensors that `model.start_from` names; without it, the data as it is.

    store: of this run, where a run is looked for that is named by its id; None: the default ones.
    Raises InputError if there is no such run or checkpoint, if it is damaged, or if its categories
    or classes are not those of the data; StoreError.
    """
    start = spec.model.start_from
    if start is None or spec.extends is not None:  # that run has begun with it
        return data
    run = NamedRun(start.run, f"{WHERE}.run", store, data.folder)
    ref, found = checkpoint_of(run, start.checkpoint, f"{WHERE}.checkpoint")
    tensors = network(found.tensors)
    if faults := list(misfits(spec, tensors, found.manifest.values, data)):
        raise InputError(faults)
    averaged = any(name.startswith(AVERAGE) for name in found.tensors)
    origin = origin_of("start_from", ref, found).model_copy(update={"averaged": averaged})
    return replace(data, pretrained=tensors, origin=origin)


def only_anew(spec: JobSpec) -> None:
    """Raise InputError if a spec extends a run: trainings of a comparison begin anew."""
    if spec.extends is not None:
        rule, remedy = "this command trains anew", "remove it, or use `python -m job run`"
        raise InputError([Fault("$.extends", json.dumps(spec.extends), rule, remedy)])


class NamedRun(NamedTuple):
    """A run as a spec names it."""

    name: str
    where: str
    """JSON path."""
    store: str | None
    """Where a run is looked for that is named by its id; None: the default ones."""
    folder: Path
    """Where the paths of folders start."""


def checkpoint_of(run: NamedRun, which: str | int, where: str) -> tuple[RunRef, Restored]:
    """A run, and a checkpoint of it, verified; raises as `with_start`.

    where: JSON path of which checkpoint that is.
    """
    ref = the_run(run.name, run.store, run.where, run.folder)
    opened = open_store(ref.store)
    try:
        index = RunIndex.read(opened, ref.run)
        if index is None:
            raise Missing("it has not begun")
        kept = choose_checkpoint(index, which, f"run {ref.run}", where)
        return ref, load(opened, ref.run, kept)
    except (Damaged, Missing) as fault:
        rule, remedy = f"it cannot be read: {fault}", "name another checkpoint or run"
        raise InputError([Fault(run.where, json.dumps(run.name), rule, remedy)]) from None


def origin_of(kind: Any, ref: RunRef, found: Restored) -> Origin:
    """What is recorded of the run that another begins with. kind: as of Origin."""
    manifest = found.manifest
    return Origin(
        kind=kind,
        run=ref.run,
        store=open_store(ref.store).url,
        step=manifest.step,
        epoch=manifest.epoch,
        sha256=found.kept.manifest,
    )


def network(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors in a checkpoint, by parameter; the average's, which is evaluated."""
    found = {}
    for prefix in (NETWORK, AVERAGE):
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                now = named_now(NETWORK + name.removeprefix(prefix))
                found[now.removeprefix(NETWORK)] = tensor
    return found


def misfits(
    spec: JobSpec, tensors: Mapping[str, Tensor], values: Mapping[str, Any], data: Dataset
) -> Iterator[Fault]:
    """A fault for each input or task whose codes stand for something else in that run.

    tensors: of that run's network. values: of its checkpoint's manifest.
    """
    patterns = () if spec.model.start_from is None else spec.model.start_from.patterns
    taken = {n: x for n, x in tensors.items() if any(fits(n, part) for part in patterns)}
    own = isinstance(spec.model, Python)  # whose names do not say what is trunk and what is head
    pairs = []
    if own or any(name.startswith("trunk.") for name in taken):
        order, ours = values.get("inputs"), list(data.inputs)
        if not own and order is not None and list(order) != ours and sorted(order) == sorted(ours):
            rule = f"the network of that run joins the inputs in the order {', '.join(order)}"
            remedy = "list them so, or leave the trunk out of parts"
            yield Fault("$.data.inputs", ", ".join(ours), rule, remedy)
        pairs.append(("categories", values.get("levels", {}), data.levels, "what reads them"))
    sizes = {size for n, x in taken.items() if not n.startswith("trunk.") for size in x.shape}
    read = {task.name for task in spec.tasks if task.head_width in sizes}
    classes = {name: each for name, each in data.classes.items() if name in read}
    pairs.append(("classes", values.get("classes", {}), classes, "the heads"))
    for what, before, now, part in pairs:
        for name in sorted(before.keys() & now.keys()):
            if before[name] != now[name]:
                found = f"other {what} of {name}: {_some(before[name])}"
                rule = f"the data's are {_some(now[name])}, in this order"
                yield Fault(f"{WHERE}.run", found, rule, f"leave {part} out of parts")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
