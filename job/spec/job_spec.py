"""The job spec: every field, its bounds, and the rules between fields.

A spec is one frozen value, and it alone decides what a run computes: the trainer reads no flag and
no environment variable for that. Secrets and endpoints are never in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from job.spec.balance import Balance, Fixed, Weighted
from job.spec.base import (
    CUDA,
    NAME,
    RUNPOD_NAME,
    VARIABLE,
    BrokenRule,
    Count,
    Positive,
    Section,
    Text,
)
from job.spec.data import Data, SplitBy, data_files
from job.spec.model import Lstm, Model, Python
from job.spec.own_code import PythonFile
from job.spec.tasks import Head, Task, metrics_of
from job.spec.training import Checkpoint, Gate, Log, MetricGate, RatioGate, Train
from job.spec.update.optimizer import AdamW, Optimizer
from job.spec.update.schedule import Plateau


class Resources(Section):
    """What to rent, and at what price at most."""

    gpu: tuple[Text, ...] = Field(min_length=1)
    """GPU ids as RunPod's catalogue spells them, in order of preference."""
    gpu_count: Annotated[int, Field(ge=1, le=8)] = 1
    """GPUs in the pod; each trains on its part of every batch."""
    cloud: tuple[Literal["SECURE", "COMMUNITY"], ...] = Field(default=("SECURE",), min_length=1)
    """RunPod's pools to search, in order."""
    min_cuda: Annotated[str, Field(pattern=CUDA)] = "12.8"
    """Lowest CUDA version of the host's driver; the image's, where that is higher."""
    disk_gb: Annotated[int, Field(ge=5, le=2000)] = 20
    """Size of the container disk, in GB."""
    max_price_per_hour: Positive
    """Ceiling in USD per hour for the whole pod."""
    max_hours: Annotated[float, Field(gt=0, le=720)]
    """Hours until the run is ended: of a submission, from its confirmation, for all its pods
    together; of a container that was not submitted, from each of its starts."""
    start_timeout_minutes: Positive = 20.0
    """Minutes from a pod's creation to its first sign of life, image pull included."""
    stall_minutes: Positive = 15.0
    """Minutes without a finished step until the run counts as stalled."""
    max_boots: Count = 3
    """Most starts of the container in one pod without a new checkpoint between them; one more is a
    crash loop, which ends the run."""
    secrets: dict[
        Annotated[str, Field(pattern=VARIABLE)], Annotated[str, Field(pattern=RUNPOD_NAME)]
    ] = {}
    """The container's variables that RunPod fills in, each with the name of a RunPod secret, e.g.
    {"AWS_ACCESS_KEY_ID": "s3_key"}; never a secret's value."""


class JobSpec(Section):
    """One training job."""

    LATER = ("control", "extends", "label", "notes")
    ABOUT: ClassVar[frozenset[str]] = frozenset({"schema_", "label", "notes"})
    """Fields that change nothing of what a run computes, and so not its content's hash."""
    schema_: str | None = Field(default=None, alias="$schema")
    """Path or URL of this file's JSON Schema, for editors."""
    name: Annotated[str, Field(pattern=NAME)]
    """Name of the job: the first folder in the store, and the beginning of a pod's name."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of initialisation, of the order of samples, and of dropout."""
    data: Data
    """Where samples come from."""
    model: Model = Lstm()
    """The trunk and its heads."""
    tasks: tuple[Task, ...] = Field(min_length=1)
    """The tasks, in the order of every per-task record."""
    balance: Balance = Fixed()
    """How the tasks' gradients are weighted."""
    optimizer: Optimizer = AdamW()
    """The optimizer."""
    train: Train
    """How it trains: epochs, batches, precision, device."""
    log: Log = Log()
    """What is recorded, and how often."""
    checkpoint: Checkpoint = Checkpoint()
    """What is saved, and when."""
    gates: tuple[Gate, ...] = ()
    """Conditions that the run must meet; the verdict names each."""
    resources: Resources | None = None
    """What to rent; null: the run is local."""
    control: bool = False
    """The targets are permuted between the samples of each split: the run shows what the job
    measures where there is nothing to learn."""
    extends: Text | None = None
    """A run that this one goes on with for longer, named as in model.start_from.run; `--extend`
    sets it. null: the run begins anew."""
    label: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    """A few words by which people know the run, at most 80 characters; no part of the content's
    hash."""
    notes: Text | None = None
    """What people should know about it; no part of the content's hash."""

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks, in order: index k of every [K] tensor."""
        return [task.name for task in self.tasks]

    @property
    def uncompiled(self) -> JobSpec:
        """The same, without PyTorch's compiler: what it computes is the same but for rounding."""
        train = self.train.model_copy(update={"compile": False})
        return self.model_copy(update={"train": train})

    @property
    def own_code(self) -> dict[str, PythonFile]:
        """The sections that name code of one's own, by JSON path."""
        named: dict[str, Section] = {"$.model": self.model}
        for k, task in enumerate(self.tasks):
            named[f"$.tasks[{k}].loss"] = task.loss
            for i, metric in enumerate(task.own_metrics):
                named[f"$.tasks[{k}].own_metrics[{i}]"] = metric
        return {path: each for path, each in named.items() if isinstance(each, PythonFile)}

    def rules(self) -> Iterator[BrokenRule]:
        """Task names are unique, references name a task, gates differ and lie within the run."""
        names = self.task_names
        for k, name in enumerate(names):
            if name in names[:k]:
                yield BrokenRule(
                    ("tasks", k, "name"), f'two tasks are named "{name}"', "give each its own name"
                )
        for where, name in self._references():
            if name not in names:
                yield BrokenRule(
                    where,
                    f'"{name}" is not a task; the tasks are {", ".join(names)}',
                    "name one of the tasks",
                )
        yield from self._metric_rules()
        yield from self._shared_heads()
        yield from self._own_heads()
        yield from self._unfit_split()
        for i, gate in enumerate(self.gates):
            if gate in self.gates[:i]:
                first = self.gates.index(gate)
                yield BrokenRule(("gates", i), f"gates[{first}] is the same gate", "remove one")
            if gate.by_epoch is not None and gate.by_epoch > self.train.epochs:
                yield BrokenRule(
                    ("gates", i, "by_epoch"),
                    f"the gate is read at epoch {gate.by_epoch}, the run ends at epoch "
                    f"{self.train.epochs}",
                    "raise train.epochs or lower by_epoch",
                )

    def _own_heads(self) -> Iterator[BrokenRule]:
        """A network of one's own has its own heads."""
        if isinstance(self.model, Python):
            for k, task in enumerate(self.tasks):
                if task.head != Head():
                    rule = "a network of your own makes its heads itself"
                    yield BrokenRule(("tasks", k, "head"), rule, "remove head")

    def _shared_heads(self) -> Iterator[BrokenRule]:
        """Tasks that share layers of their heads read the same, through the same layers."""
        first: dict[str, Task] = {}
        for k, task in enumerate(self.tasks):
            if task.head.share is None:
                continue
            other = first.setdefault(task.head.share, task)
            if task.level != other.level:
                rule = f'it shares layers with task "{other.name}", whose level is {other.level}'
                yield BrokenRule(("tasks", k, "level"), rule, "give each level a share of its own")
            elif task.head.hidden != other.head.hidden:
                rule = f'it shares layers with task "{other.name}", whose widths differ'
                yield BrokenRule(("tasks", k, "head", "hidden"), rule, "write the same widths")

    def _metric_rules(self) -> Iterator[BrokenRule]:
        """A metric that a gate, early stop or best_of reads is one that its task measures."""
        stop, kept = self.train.early_stop, self.checkpoint
        read: list[tuple[tuple[str | int, ...], str | None, str | None]] = [
            (("gates", i, "metric"), gate.task, gate.metric)
            for i, gate in enumerate(self.gates)
            if isinstance(gate, MetricGate)
        ]
        read.append((("checkpoint", "best_metric"), kept.best_of, kept.best_metric))
        if stop is not None:
            read.append((("train", "early_stop", "metric"), stop.task, stop.metric))
        by_name = {task.name: (k, task) for k, task in enumerate(self.tasks)}
        for where, name, metric in read:
            if metric is None or name not in by_name:
                continue
            k, task = by_name[name]
            if metric not in task.measured:
                fits = metric in metrics_of(task.loss.kind)
                measured = ", ".join(task.measured) or "nothing"
                yield BrokenRule(
                    where,
                    f'the task "{name}" measures {measured}',
                    f"add it to tasks[{k}].metrics" if fits else "name one of these",
                )
            elif where[0] != "gates" and task.higher_is_better(metric) is None:
                yield BrokenRule(
                    where,
                    f"neither a higher nor a lower {metric} is better",
                    "name another metric; a gate bounds this one with above and below",
                )

    def _unfit_split(self) -> Iterator[BrokenRule]:
        """The classes to stratify by must be those of one task, one class per sample."""
        split = getattr(self.data, "split", None)
        if not isinstance(split, SplitBy) or split.stratified not in self.task_names:
            return
        task = next(task for task in self.tasks if task.name == split.stratified)
        binary = task.loss.kind == "binary_cross_entropy" and task.outputs == 1
        if task.level != "window" or not (task.loss.of_classes or binary):
            yield BrokenRule(
                ("data", "split", "stratified"),
                f"{task.name} has not one class per sample",
                "name a window task of cross_entropy, or of binary_cross_entropy with one output",
            )

    def _references(self) -> list[tuple[tuple[str | int, ...], str]]:
        """The path of every reference to a task, and the name there."""
        references: list[tuple[tuple[str | int, ...], str]] = []
        for i, gate in enumerate(self.gates):
            if isinstance(gate, RatioGate):
                references += [
                    (("gates", i, "ratio", j), name) for j, name in enumerate(gate.ratio)
                ]
            else:
                references.append((("gates", i, "task"), gate.task))
        if isinstance(self.balance, Weighted):
            references += [(("balance", "weights", name), name) for name in self.balance.weights]
        split = getattr(self.data, "split", None)
        if isinstance(split, SplitBy) and split.stratified is not None:
            references.append((("data", "split", "stratified"), split.stratified))
        if self.train.early_stop and self.train.early_stop.task != "*":
            references.append((("train", "early_stop", "task"), self.train.early_stop.task))
        if isinstance(self.train.schedule, Plateau) and self.train.schedule.task != "*":
            references.append((("train", "schedule", "task"), self.train.schedule.task))
        if self.checkpoint.best_of is not None and self.checkpoint.best_of != "*":
            references.append((("checkpoint", "best_of"), self.checkpoint.best_of))
        return references

    @property
    def files(self) -> dict[str, str]:
        """Every file that a run reads beside the spec, by the JSON path that names it."""
        files, weights = data_files(self.data), self.model.weights
        return files if weights is None else files | {"$.model.weights.path": weights.path}

    @property
    def named_runs(self) -> dict[str, str]:
        """Every run that a run begins with, by the JSON path that names it."""
        start = self.model.start_from
        named = {"$.extends": self.extends, "$.model.start_from.run": start.run if start else None}
        if self.extends is not None:  # what it began with is in that run's state
            del named["$.model.start_from.run"]
        return {where: run for where, run in named.items() if run is not None}

    def canonical(self) -> str:
        """The spec's content as JSON, defaults filled in, keys sorted, `$schema` left out.

        Inputs keep their order too: in it their features are joined.
        """
        return written(self.model_dump(mode="json", exclude={"schema_"}), (RATES, INPUTS))

    def content(self) -> str:
        """The same without what only people read, label and notes; inputs are sorted as well."""
        return written(self.model_dump(mode="json", exclude=set(self.ABOUT)))

    def content_hash(self) -> str:
        """SHA-256 of the content, in hex: the same for two spellings of one spec."""
        return hashlib.sha256(self.content().encode()).hexdigest()


RATES, INPUTS = ("optimizer", "rates"), ("data", "inputs")
"""Sections of named values, as paths."""


def written(content: dict[str, Any], in_order: Sequence[tuple[str, str]] = (RATES,)) -> str:
    """A spec's content as JSON with sorted keys, but for the sections `in_order`.

    Of the patterns of rates the first that matches counts, so another order is another spec.
    """
    ordered = json.loads(json.dumps(content, sort_keys=True))
    for outer, inner in in_order:
        if found := (content.get(outer) or {}).get(inner):
            ordered[outer][inner] = {name: ordered[outer][inner][name] for name in found}
    return json.dumps(ordered)
