"""Events as lines and as text: gapless, valid JSON, true to their schema, readable at any width."""

from __future__ import annotations

import io
import json
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jsonschema
import pytest
from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console

from job.events import (
    SCHEMA,
    Alarm,
    CheckpointSaved,
    Epoch,
    EpochTask,
    Event,
    FinalTest,
    FinalTestTask,
    GateResult,
    Predictions,
    RunFinished,
    RunStarted,
    Step,
    StepTask,
    Superseded,
    TaskSetup,
    Worth,
    fields,
)
from job.events.json_schema import schema
from job.events.log import EventLog, Line, Sampled, print_line
from job.events.parse import event_of
from job.show.lines import Readable
from tests.support.fake_history import predictions

SEED_TASKS = ["type", "pointers", "binary", "countdown"]
PUBLISHED = jsonschema.Draft202012Validator(schema())


def started(tasks: list[str], **more: Any) -> RunStarted:
    """A run's set-up."""
    known: dict[str, Any] = {
        "name": "jade",
        "spec_hash": "0" * 64,
        "version": "0.1.0",
        "torch": "2.13.0",
        "device": "cpu (x86_64)",
        "threads": 2,
        "parameters": 123456,
        "shapes": {"trunk.encoder.lstm.weight_ih_l0": [384, 12]},
        "samples": {"train": 168, "validation": 42},
        "features": [105, 12],
        "rows": 5031,
        "skipped": {"bars of a weekend": 3},
        "steps": 120,
        "tasks": {
            name: TaskSetup(
                level="window",
                outputs=1,
                unit="bars",
                loss_unit="[bold]bars",
                shift=[0.0],
                scale=[1.0],
                baseline_constant=1.25,
                baseline_per_position=None,
                trivial={"train": 1.25, "validation": 1.5},
                unmeasurable={"validation": "it has 3 of the 8 samples that are needed"},
            )
            for name in tasks
        },
    }
    return RunStarted(**(known | more))


def epoch(tasks: list[str], number: int = 1, **values: float | None) -> Epoch:
    """An epoch; task k has the share k / sum."""
    every: dict[str, Any] = dict.fromkeys(EpochTask.model_fields, -0.00012345) | values
    every |= {"metrics": {}, "val_metrics": {}}
    total = sum(range(len(tasks))) or 1
    by_task = {name: {"grad_share": k / total, "cosines": {}} for k, name in enumerate(tasks)}
    return Epoch(
        epoch=number,
        step=6 * number,
        tasks={name: EpochTask(**(every | by_task[name])) for name in tasks},
        seconds=1.5,
        samples_per_second=112.0,
    )


def step(**values: float | None) -> Step:
    """A step of one task, its numbers given."""
    every: dict[str, Any] = dict.fromkeys(StepTask.model_fields, 0.5) | {"labelled": 3}
    return Step(
        step=1,
        epoch=1,
        tasks={"one": StepTask(**(every | values))},
        cosine_min=None,
        lr=1e-3,
        step_ms=2.0,
    )


def gate(measured: float | None) -> GateResult:
    """A gate's verdict."""
    return GateResult(
        gate="a drops > 20% by epoch 5", passed=False, measured=measured, unit="share", epoch=5
    )


def finished(error: str | None = None, measured: float | None = 0.1) -> RunFinished:
    """The end."""
    return RunFinished(
        reason="failed" if error else "gates_failed",
        exit_code=1 if error else 6,
        gates=[gate(measured)],
        steps=120,
        epochs=20,
        seconds=3.0,
        error=error,
    )


WORTH = {
    "type": Worth(beats=True, skill=0.2, error=0.05),
    "pointers": Worth(beats=False, skill=-0.1, error=0.05),
    "binary": Worth(beats=False, why="the target is the same in all its samples"),
}
TESTED = FinalTestTask(
    **{"loss": 0.5, "loss_original": math.nan, "trivial_loss_original": 2.0},
    **{"skill": 0.25, "skill_error": math.inf, "skill_low": 0.0},
    metrics={"mae": 3.5, "r2": None},
)
UNTESTED = FinalTestTask(loss=0.5, loss_original=1.5, trivial_loss_original=2.0, metrics={})
EVERY: list[BaseModel] = [
    started(SEED_TASKS),
    started(["one"], resumed_from=7),
    started(["one"], control=True),
    step(),
    step(loss=math.nan, grad_norm=math.inf, shared_grad_norm=None),
    epoch(SEED_TASKS),
    epoch(["one"], drop=math.nan, skill=-math.inf).model_copy(update={"checkpoint_age": 3.0}),
    epoch(["one"], val_skill=None, val_skill_error=None, val_skill_low=None),
    Superseded(step=5, from_seq=7, to_seq=9),
    Alarm(kind="overflow", message="a gradient overflowed", step=3),
    CheckpointSaved(step=5, epoch=1, size=1000, seconds=0.1),
    gate(0.1),
    gate(None),
    gate(math.inf),
    finished(),
    finished("step 3: the loss of task one is nan", measured=None),
    finished().model_copy(update={"control": True, "worth": WORTH}),
    predictions("one", "validation", 120, 20),
    Predictions(
        task="one", split="test", step=1, epoch=1, labels=0, confusion=[], confused=[], curves=[]
    ),
    FinalTest(step=1, epoch=1, samples=3, tasks={"one": TESTED, "two": UNTESTED}),
    finished().model_copy(update={"test": {"one": TESTED, "two": UNTESTED}}),
]
"""Every kind of event, with and without what may be missing or not finite."""


def lines_of(events: Sequence[BaseModel], next_seq: int = 1) -> list[str]:
    """The lines that a journal makes of them."""
    lines: list[str] = []
    journal = EventLog("run-1", [lambda _, line: lines.append(line)], next_seq)
    for event in events:
        journal.emit(event)
    return lines


def parsed(line: str) -> Line:
    """The line as strict JSON."""

    def refuse(token: str) -> float:
        raise AssertionError(f"{token} is not JSON")

    value: Line = json.loads(line, parse_constant=refuse)
    return value


class TestLines:
    def test_every_line_begins_with_its_envelope(self) -> None:
        """ts in UTC, schema, run_id, seq from 1 without a gap, event; then the fields."""
        for number, line in enumerate(lines_of(EVERY), 1):
            event = parsed(line)
            assert list(event)[:5] == ["ts", "schema", "run_id", "seq", "event"]
            assert event["ts"].endswith("Z")
            assert (event["schema"], event["run_id"], event["seq"]) == (SCHEMA, "run-1", number)

    def test_numbering_goes_on(self) -> None:
        """A resumed run's journal begins where the record ends."""
        assert [parsed(line)["seq"] for line in lines_of(EVERY[:3], 41)] == [41, 42, 43]

    def test_a_line_is_ascii(self) -> None:
        """Whatever the terminal's or the log's encoding, a line survives it."""
        (line,) = lines_of([Alarm(kind="x", message="7 € — \udc80", step=1)])
        assert line.isascii()
        assert parsed(line)["message"] == "7 € — \udc80"

    def test_numbers_that_are_not_finite_are_null_and_flagged(self) -> None:
        """At any depth, in lists too; what is finite has no flag."""
        told = fields(step(loss=math.nan, grad_norm=-math.inf))["tasks"]["one"]
        assert told["loss"] is None
        assert told["loss_nonfinite"] is True
        assert told["grad_norm_nonfinite"] is True
        assert told["weight"] == 0.5
        assert "weight_nonfinite" not in told
        facts = started(["one"]).tasks["one"].model_copy(update={"scale": [1.0, math.inf]})
        assert fields(facts)["scale"] == [1.0, None]
        assert fields(facts)["scale_nonfinite"] is True
        assert "shift_nonfinite" not in fields(facts)

    def test_what_is_none_is_left_out(self) -> None:
        """So that a null has one meaning: not finite."""
        assert "shared_grad_norm" not in fields(step(shared_grad_norm=None))["tasks"]["one"]
        assert "measured" not in fields(gate(None))
        untold = fields(epoch(["one"], skill=None))["tasks"]["one"]
        assert "skill" not in untold
        assert "val_skill" in untold

    @pytest.mark.parametrize("event", EVERY, ids=lambda e: type(e).__name__)
    def test_an_event_comes_back_from_its_line(self, event: BaseModel) -> None:
        """With its values, what was left out is None again, and what was not finite is NaN."""
        (line,) = lines_of([event])
        again = event_of(parsed(line))
        assert type(again) is type(event)
        assert fields(again) == fields(event)

    def test_from_many_threads(self) -> None:
        """A checkpoint's thread and the training thread share the numbers, none lost or twice."""
        seen: list[int] = []

        def sink(event: Line, _: str) -> None:
            time.sleep(0.0005)  # the others' chance to come between
            seen.append(event["seq"])

        journal = EventLog("run-1", [sink])

        def write() -> None:
            for _ in range(25):
                journal.emit(EVERY[-1])

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == list(range(1, 101))
        assert journal.next_seq == 101

    def test_each_sink_gets_each_event(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The terminal's lines are those that the store is given."""
        kept: list[str] = []
        journal = EventLog("run-1", [print_line, lambda _, line: kept.append(line)])
        for event in EVERY:
            journal.emit(event)
        assert capsys.readouterr().out.splitlines() == kept


class TestSchema:
    def test_the_examples_are_of_every_kind(self) -> None:
        """No event can be added without an example here."""
        assert {type(e) for e in EVERY} == set(get_args(get_args(Event)[0]))

    def test_is_a_schema(self) -> None:
        """Of draft 2020-12, with a description of every field of an event."""
        jsonschema.Draft202012Validator.check_schema(schema())
        for record in [*schema()["oneOf"], *schema()["$defs"].values()]:
            for name, field in record["properties"].items():
                assert name == "event" or "description" in field, name

    @pytest.mark.parametrize("event", EVERY, ids=lambda e: type(e).__name__)
    def test_every_line_obeys(self, event: BaseModel) -> None:
        """Envelope, flags and what is left out included."""
        (line,) = lines_of([event])
        PUBLISHED.validate(parsed(line))

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda e: e.pop("seq"),
            lambda e: e.pop("lr"),
            lambda e: e.update(seq=0),
            lambda e: e.update(surplus=1),
            lambda e: e.update(event="stepp"),
            lambda e: e.update(cosine_min="small"),
            lambda e: e["tasks"]["one"].update(loss="NaN"),
            lambda e: e["tasks"]["one"].update(loss_nonfinite=False),
            lambda e: e["tasks"]["one"].pop("weight"),
        ],
    )
    def test_refuses_what_no_run_writes(self, spoil: Callable[[Line], None]) -> None:
        """A field missing, surplus or of another type makes a line invalid."""
        event = parsed(lines_of([step()])[0])
        PUBLISHED.validate(event)
        spoil(event)
        with pytest.raises(jsonschema.ValidationError):
            PUBLISHED.validate(event)


def shown(events: Sequence[BaseModel], width: int = 100, terminal: bool = False) -> str:
    """What a person sees."""
    screen = io.StringIO()
    console = Console(
        file=screen, width=width, force_terminal=terminal, highlight=False, color_system=None
    )
    readable = Readable(console)
    for line in lines_of(events):
        readable(parsed(line), line)
    return screen.getvalue()


def epoch_lines(text: str) -> list[str]:
    """The lines of epochs, and the one above them."""
    return [x for x in text.splitlines() if x.startswith("epoch") or x[:5].strip().isdigit()]


class TestReadable:
    def test_an_epoch_is_a_line_of_losses_and_shares(self) -> None:
        """The four tasks of the failure report fit into 80 columns, under their names."""
        text = shown([started(SEED_TASKS), epoch(SEED_TASKS, 1), epoch(SEED_TASKS, 12)], 80)
        head, first, twelfth = epoch_lines(text)
        assert head.split() == ["epoch", *SEED_TASKS]
        assert first.split() == ["1", *" ".join(f"-0.000123 {x}%" for x in (0, 17, 33, 50)).split()]
        assert len(head) == len(first) == len(twelfth) <= 80
        for name in SEED_TASKS:  # the shares stand under the ends of the names
            assert first[head.index(name) + len(name) - 1] == "%"

    @pytest.mark.parametrize(
        ("share", "written"), [(0.999, "99.9%"), (0.9996, "99.96%"), (0.999999, "100.000%")]
    )
    def test_a_share_just_below_one_stands_apart_from_its_loss(
        self, share: float, written: str
    ) -> None:
        """It has more digits than others, and is not read as the loss's last ones."""
        names = ["one", "other"]
        of = epoch(names)
        tasks = {n: t.model_copy(update={"grad_share": share}) for n, t in of.tasks.items()}
        _, line = epoch_lines(shown([started(names), of.model_copy(update={"tasks": tasks})]))
        assert line.split() == ["1", *["-0.000123", written] * 2]

    @pytest.mark.parametrize("width", [40, 80, 100, 200])
    @pytest.mark.parametrize(
        "tasks",
        [["one"], [f"task_{k}" for k in range(32)], ["x" * 64, "y" * 64, "z"]],
        ids=["one task", "32 tasks", "long names"],
    )
    def test_fits_any_width(self, tasks: list[str], width: int) -> None:
        """Tasks that do not fit are counted, and the one that pulls least is named anyway."""
        head, line = epoch_lines(shown([started(tasks), epoch(tasks)], width))
        assert len(line) <= max(width, 90)
        left = len(tasks) - len(head.split()[1:])
        assert (f"+{left}, least: {tasks[0]} 0%" in line) == (left > 0)
        assert left == 0 or len(tasks) > 1

    def test_ends_with_the_verdict(self) -> None:
        """A table of tasks, a table of gates, and the reason with the exit code."""
        text = shown([started(SEED_TASKS), epoch(SEED_TASKS), finished()])
        tasks, gates, end = (text.index(x) for x in ("after epoch 1", "\ngates", "gates_failed"))
        assert tasks < gates < end
        assert "a drops > 20% by epoch 5" in text[gates:end]
        assert "failed" in text[gates:end]
        assert "exit 6 · 20 epochs, 120 steps, 3.0 s" in text[end:]
        assert "1.25" in text[tasks:gates]

    def test_a_control_says_that_it_is_one(self) -> None:
        """In its first line; no other run does."""
        (first, *_) = shown([started(["one"], control=True)]).splitlines()
        assert first == "jade run run-1, a control: its targets are permuted"
        assert "control" not in shown([started(["one"])])

    def test_the_first_metric_of_each_task(self) -> None:
        """On the validation split, with its unit, below the table; none without metrics."""
        names = [f"task_{k}" for k in range(14)]
        whole = epoch(names)
        for k, name in enumerate(names):
            whole.tasks[name].val_metrics.update({"mae": k / 7, "r2": 0.5})
        whole.tasks["task_1"].val_metrics["mae"] = None
        line = "on the validation split: task_0 mae 0 bars, task_1 mae -, task_2 mae 0.2857 bars, "
        text = shown([started(names), whole, finished()], 500)
        assert line in text
        assert ", task_11 mae 1.571 bars, 2 more\n" in text
        assert "on the validation split" not in shown([started(names), epoch(names), finished()])

    def test_a_failure_before_any_epoch(self) -> None:
        """No table of tasks, but the error."""
        text = shown([started(["one"]), finished("step 3: the loss of task one is nan")])
        assert "after epoch" not in text
        assert "failed: step 3: the loss of task one is nan · exit 1" in text

    def test_numbers_that_are_missing_are_told_apart(self) -> None:
        """nan for a loss that is not finite, a dash for a gate that was not read."""
        events = [started(["one"]), epoch(["one"], train_loss_original=math.nan), finished()]
        assert epoch_lines(shown(events))[1].split() == ["1", "nan", "0%"]
        assert " - " in shown([started(["one"]), finished(measured=None)])

    @pytest.mark.parametrize("width", [30, 60, 80, 100, 160])
    def test_the_last_tables_cut_no_number(self, width: int) -> None:
        """Whole columns give way, are named below, and no line is wider than the terminal."""
        values = {"train_loss_original": 0.003548, "skill": -12.3456, "skill_error": 0.7111}
        values |= {"val_skill": -0.05032, "val_skill_error": 0.0321, "drop": 0.05645}
        values |= {"drop_trivial": 0.0789, "val_loss_original": 0.003507, "weight": 392.77}
        text = shown([started(SEED_TASKS), epoch(SEED_TASKS, 1, **values), finished()], width)
        tables = text[text.index("after epoch 1") : text.rindex("gates_failed")]
        assert max(map(cell_len, tables.splitlines())) <= width
        numbers = {"loss": "0.003548", "drop": "5.6%", "trivial drop": "7.9%", "share": "33.3%"}
        numbers |= {"trivial loss": "1.25", "val. loss": "0.003507", "weight": "392.8"}
        numbers |= {"skill": "-1234.6 ± 71.1%", "val. skill": "-5.0 ± 3.2%"}
        said = " ".join(tables.split()).partition("hidden columns: ")[2].partition(" gates ")[0]
        left = said.split(", ")
        cells = re.split(r"  +|[│\n]", tables)
        for title, number in numbers.items():
            assert (number in map(str.strip, cells)) == (title not in left), title
        assert "0.003548" in tables
        assert tables.split().count("failed") == 1
        assert tables.split().count("10.0%") == 1
        assert "…" not in tables

    def test_tells_store_and_alarms_and_counts(self) -> None:
        """Where the run is kept, an alarm's kind, one thread, thousands with a comma."""
        screen = io.StringIO()
        readable = Readable(Console(file=screen, width=100))
        readable.store = "s3://bucket/runs"
        alarm = Alarm(kind="task_starving", message="it starves", step=1260, task="one")
        for line in lines_of([started(["one"], threads=1), alarm]):
            readable(parsed(line), line)
        text = screen.getvalue()
        assert "store s3://bucket/runs\n" in text
        assert "cpu (x86_64), 1 thread\n" in text
        assert "alarm step 1,260, task_starving: it starves\n" in text

    def test_the_head_of_epochs_comes_with_an_epoch(self) -> None:
        """Where none is shown there is none; again after a resume."""
        alarm = Alarm(kind="x", message="hot", step=1)
        assert "by task:" not in shown([started(["one"]), alarm])
        again = started(["one"], resumed_from=6)
        text = shown([started(["one"]), epoch(["one"]), again, alarm, epoch(["one"], 2)])
        assert text.count("by task:") == 2

    def test_markup_is_text(self) -> None:
        """What the user named is never taken for a colour."""
        alarm = Alarm(kind="x", message="[red]hot", step=1)
        assert "[red]hot" in shown([started(["one"]), alarm])
        assert "[bold]bars" in shown([started(["one"]), epoch(["one"]), finished()])

    def test_an_event_of_a_later_version(self) -> None:
        """Shown by its name, not an error."""
        screen = io.StringIO()
        Readable(Console(file=screen))({"event": "moon.rises"}, "")
        assert screen.getvalue() == "moon.rises\n"

    def test_is_text_and_nothing_else(self) -> None:
        """No escape sequence where there is no terminal; on one, none that moves the cursor."""
        events = [started(["one"]), step(), epoch(["one"]), finished()]
        assert "\x1b" not in shown(events)
        assert not re.search(r"\x1b\[[0-9;?]*[^0-9;?m]", shown(events, terminal=True))


def test_sampled_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Of steps that follow each other fast one is printed, and everything else."""
    sampled = Sampled()
    for n in range(1000):
        sampled({"event": "step"}, f"step {n}")
    sampled({"event": "epoch"}, "epoch 1")
    sampled({"event": "alarm"}, "alarm")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "step 0"
    assert printed[-2:] == ["epoch 1", "alarm"]
    assert len(printed) <= 4
