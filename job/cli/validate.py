"""`python -m job validate` and `schema`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Annotated

import typer

from job.cli.arguments import Spec, Traceback, causes
from job.show.format import counted
from job.show.printable import printable
from job.spec import Arrays, Conv1d, JobSpec, Lstm, Transformer
from job.spec.read import read_spec
from job.spec.read import schema as spec_schema

if TYPE_CHECKING:
    from job.data.dataset import Dataset


def validate(
    spec: Spec,
    with_data: Annotated[
        bool, typer.Option("--data/--no-data", help="Check its data and this machine too.")
    ] = True,
    traceback: Traceback = False,
) -> None:
    """Check a spec, its data and, unless it rents one, this machine; one line per fault."""
    job = read_spec(spec)
    if with_data:
        from job.data.dataset import load
        from job.distributed.device import available_device
        from job.run.extend import extension
        from job.run.start_from import with_start
        from job.train.build.check_own import check_own
        from job.train.build.compiled import check_compiler
        from job.train.build.parts import check_parts

        data = with_start(load(job, spec.resolve().parent, test=True), job, None)
        with causes(traceback):
            check_own(job, data)
            check_parts(job, data)
        if job.extends is not None:
            extension(job, data, None)
        if job.resources is None:
            device = available_device(job.train)
            if job.train.compile:
                check_compiler(device)
        counts = f"{len(data.train)} training, {len(data.validation)} validation"
        counts += f", {len(data.test)} test" if data.test else ""
        typer.echo(f"{spec}: valid; {counts} samples; content {job.content_hash()[:12]}")
        if isinstance(job.data, Arrays):
            for line in (*_input_lines(data, job.data), *_zero_and_one(job, data)):
                typer.echo(printable(line))
        for line in _doubts(job, data):
            typer.echo(printable(line))
    else:
        typer.echo(f"{spec}: valid, data not looked at; content {job.content_hash()[:12]}")


def _input_lines(data: Dataset, section: Arrays) -> Iterator[str]:
    """Of each input a line: its features, and their ranges or numbers of codes."""
    for name, how in section.named.items():
        about, shape = data.inputs[name], data.train.inputs[name].shape
        start = counted(shape[-1], "feature")
        if section.inputs is not None:
            places = " x ".join(map(str, shape[1:-1]))
            many = f" at {places} positions" if prod(shape[1:-1]) > 1 else ""
            start = f"{name}: {start}{many}"
        if about.codes:
            codes = ", ".join(f"{n - 1:,}" for n in about.codes)
            yield f"{start}, {how.kind}: {codes} known, and one for all others"
            continue
        if how.missing == "indicator":
            marked = int((data.stats[name].missing > 0).sum())
            start += f" and {counted(marked, 'indicator')} of missing values"
        ranges = data.ranges_of(name)
        each = ", ".join(
            f"{key.removeprefix(f'{name}: ')} {low:.4g} … {high:.4g}"
            for key, (low, high) in ranges.items()
        )
        some = "" if len(ranges) == shape[-1] else "with the extremes in "
        yield f"{start}, scale {how.scale}: {some}{each}"
    if (real := data.train.real) is not None:
        share = 1 - float(real.double().mean())
        yield f"{share:.1%} of the positions in the training split are padding"
    for of, stats in data.stats.items():
        if empty := [data.feature_name(of, int(i)) for i in stats.empty.nonzero()[0]]:
            more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
            yield f"no value in the training split: {', '.join(empty[:5])}{more}; leave it out"


def _zero_and_one(job: JobSpec, data: Dataset) -> Iterator[str]:
    """Which text is 0 and which is 1, for each such target."""
    for task in job.tasks:
        if task.loss.kind == "binary_cross_entropy" and task.name in data.classes:
            zero, one = data.classes[task.name]
            yield f"{task.name}: {zero} is 0, {one} is 1"


def _doubts(job: JobSpec, data: Dataset) -> Iterator[str]:
    """What may be meant, but reads like a slip."""
    if isinstance(job.data, Arrays) and isinstance(job.model, Lstm | Conv1d | Transformer):
        for name, each in job.data.named.items():
            if each.kind == "image":
                rows, columns = data.train.inputs[name].shape[1:3]
                how = f"as a sequence of {rows} x {columns} pixels, row by row"
                yield f"{name}: {job.model.kind} reads an image {how}; conv2d is for images"
    shares = [task.head.share for task in job.tasks]
    for k, task in enumerate(job.tasks):
        if task.head.share is not None and shares.count(task.head.share) == 1:
            yield f'$.tasks[{k}].head.share: no other task names "{task.head.share}"'
        known = data.classes.get(task.name, [])
        if task.loss.kind == "cross_entropy" and known and task.outputs > len(known):
            yield (
                f"$.tasks[{k}].outputs: {task.outputs} outputs for {len(known)} classes: "
                f"{', '.join(known)}"
            )


def schema(
    events: Annotated[
        bool, typer.Option("--events", help="Of the lines of `run --json` instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of the spec."""
    from job.events.json_schema import schema as event_schema

    typer.echo(json.dumps(event_schema() if events else spec_schema(), indent=2))
