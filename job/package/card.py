"""The model card: what the network predicts, from what, how well, and where it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from job.events import FinalTestTask, fields
from job.package.export import Exported
from job.package.licences import Source
from job.package.served import in_words
from job.predict import Predictor
from job.predict.predicted import names
from job.record.result import Result
from job.show.format import format_metric, format_number, percent_with_error
from job.spec import JobSpec, Task, loss_unit

CARD = "README.md"


class Facts(NamedTuple):
    """What a card says beside what the run's spec does."""

    samples: dict[str, int]
    """By split."""
    measured: Mapping[str, FinalTestTask]
    """By task, on the validation split, by this checkpoint."""
    checked: int
    """Validation samples on which the files were checked."""
    weights: str
    """SHA-256 of the checkpoint's model.safetensors."""
    exported: Sequence[Exported]
    inputs: dict[str, tuple[str, list[int]]]
    """By input in the order of the files': type, and shape of a sample."""
    sources: Sequence[Source]
    notes: Mapping[Path, str]
    """Where the copies of licences and notices are."""
    alarms: Sequence[str]
    """Of the run."""


def card(predictor: Predictor, facts: Facts) -> str:
    """The text, in Markdown."""
    return "\n".join(_lines(predictor, facts)) + "\n"


def _lines(predictor: Predictor, facts: Facts) -> Iterator[str]:
    spec, origin = predictor.spec, predictor.origin
    yield f"# {spec.name}"
    yield ""
    yield f"Run `{origin.run}`, step {origin.kept.step}, epoch {predictor.epoch}; weights"
    yield f"`{facts.weights}`, spec `{spec.content_hash()}` (SHA-256)."
    if spec.control:
        yield "A control: its targets were permuted, so that there was nothing to learn."
    yield from _files(facts)
    yield from _interface(predictor, facts)
    yield from _quality(spec, facts, origin.result)
    yield from _data(spec, facts)
    yield from _limits(spec, facts)
    yield from _licences(facts)


def _files(facts: Facts) -> Iterator[str]:
    yield from ("", "## Files", "")
    for each in facts.exported:
        if each.difference is not None:
            off = each.difference
            yield (
                f"- `{each.file}`: checked on {facts.checked} validation samples, one by itself "
                f"and many at once; its predictions {in_words(off)}"
            )
        elif each.is_written:
            yield f"- `{each.file}`: {each.why}"
        else:
            yield f"- no `{each.file}`: {each.why}"
    yield "- `interface.json`: names, columns and categories of inputs and outputs"
    yield "- `spec.json`: the whole job"


def _interface(predictor: Predictor, facts: Facts) -> Iterator[str]:
    yield from ("", "## Inputs and outputs", "", "| input | type | shape |", "|---|---|---|")
    for name, (kind, shape) in facts.inputs.items():
        yield f"| `{name}` | {kind} | {['batch', *shape]} |".replace("'", "")
    yield ""
    yield "Numbers go in as the data has them: the network scales them. Codes are the places in"
    yield "`interface.json`, or their number for a value that is not there."
    yield from ("", "| output | what | numbers |", "|---|---|---|")
    for task in predictor.spec.tasks:
        titles = names(task, predictor.classes.get(task.name, []))
        some = ", ".join(titles[:8]) + (f" and {len(titles) - 8} more" if titles[8:] else "")
        unit = f", {task.unit}" if task.unit else ""
        each = "one for each position" if task.level == "step" else "one for each sample"
        yield f"| `{task.name}` | {task.loss.kind}{unit}; {each} | {some} |"


def _quality(spec: JobSpec, facts: Facts, result: Result | None) -> Iterator[str]:
    yield from ("", "## How well", "", "On the validation split, in original units:", "")
    yield from ("| task | loss | trivial loss | skill | metrics |", "|---|---|---|---|---|")
    for task in spec.tasks:
        yield _row(task, facts.measured[task.name])
    yield ""
    yield "Skill is 1 − loss / the loss of the strongest prediction that ignores the input, with"
    yield "its standard error."
    if result is not None and result.test:
        shown = (f"{k} {percent_with_error(fields(t), 'skill', 'skill_error')}"
                 for k, t in result.test.items())  # fmt: skip
        yield ""
        yield f"On the test split, by the last weights of the run: skill of {', '.join(shown)}."
    for gate in result.gates if result is not None else ():
        yield ""
        yield f"Gate {gate.gate}: {'passed' if gate.passed else 'failed'}."


def _row(task: Task, found: FinalTestTask) -> str:
    unit = loss_unit(task.loss.kind, task.unit)
    named = f"{task.name}, {unit}" if unit else task.name
    metrics = ", ".join(format_metric(k, x, task.unit) for k, x in found.metrics.items())
    losses = (found.loss_original, found.trivial_loss_original)
    skill = percent_with_error(fields(found), "skill", "skill_error")
    return f"| {' | '.join([named, *map(format_number, losses), skill, metrics])} |"


def _data(spec: JobSpec, facts: Facts) -> Iterator[str]:
    counts = ", ".join(f"{n:,} {split}" for split, n in facts.samples.items())
    yield from ("", "## Data", "")
    yield f"`{spec.data.path}` ({spec.data.kind}): {counts} samples. The section of the spec:"
    section = json.dumps(json.loads(spec.canonical())["data"], indent=2, ensure_ascii=False)
    yield from ("", "```json", section, "```")


def _limits(spec: JobSpec, facts: Facts) -> Iterator[str]:
    yield from ("", "## Limits", "")
    for task in spec.tasks:
        found = facts.measured[task.name]
        if found.skill is None:
            yield f"- {task.name}: the validation split cannot tell whether it has any skill"
        elif found.skill_low is None or not found.skill_low > 0:
            yield f"- {task.name}: does not surely beat a prediction that ignores the input"
    for alarm in facts.alarms:
        yield f"- the run raised an alarm: {alarm}"
    yield "- the numbers above are about samples of the same kind; they say nothing of another"
    yield "  period, place or machine"
    yield "- a sample has the shape above, and no other"


def _licences(facts: Facts) -> Iterator[str]:
    yield from ("", "## Licences", "")
    if not facts.sources:
        yield "The network began with random numbers, and with no file of others. The data has its"
        yield "own licence, which this card does not know."
    for source in facts.sources:
        yield f"- `{source.file}` (SHA-256 `{source.sha256}`): {source.what}"
        for key, value in source.metadata.items():
            yield f"  - it says of itself: {key}: {value}"
        for note in source.notes:
            yield f"  - beside it lies [{note.name}]({facts.notes[note]})"
        if not source.notes and not source.metadata:
            yield "  - no licence lies beside it: find out before you pass it on"
