"""The end of a run in words: what it is worth."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from job.show.glyphs import UNICODE
from job.show.lines import Readable
from job.show.summary_tables import MOST_METRICS, metrics, on_test, summary, worth

SURE = {"beats": True, "skill": 0.2, "error": 0.03}
UNSURE = {"beats": False, "skill": -0.0512, "error": 0.08}
UNTOLD = {"beats": False, "why": "it has 3 of the 8 samples that are needed"}
BEATS = "beats the trivial prediction on the validation split: "
DOES_NOT = "does not surely beat the trivial prediction on the validation split: "
CANNOT = "the validation split cannot tell: "


def told(control: bool = False, **tasks: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of a run with this worth, each with its colour."""
    return [(text.plain, str(text.style)) for text in worth({"control": control, "worth": tasks})]


def test_every_task_beats_the_trivial_prediction() -> None:
    """It is good news, in one line, with every skill and its error."""
    assert told(a=SURE, b=SURE | {"skill": 0.113}) == [
        (f"{BEATS}a 20.0 ± 3.0%, b 11.3 ± 3.0%", "green")
    ]


@pytest.mark.parametrize("other", [UNSURE, UNTOLD])
def test_some_tasks_beat_it(other: dict[str, Any]) -> None:
    """It is no more than that: not green."""
    (beats, colour), (rest, _) = told(a=other, b=SURE)
    assert (beats, colour) == (f"{BEATS}b 20.0 ± 3.0%", "yellow")
    assert "a" in rest.split(": ")[1]


def test_no_task_beats_it() -> None:
    """It is said in red, and nothing beside it that sounds better."""
    assert told(a=UNSURE, b=UNSURE) == [(f"{DOES_NOT}a -5.1 ± 8.0%, b -5.1 ± 8.0%", "red")]


def test_the_split_cannot_tell() -> None:
    """Each task says why; with others that can be told, each kind has its line."""
    assert told(a=UNTOLD) == [(f"{CANNOT}a: {UNTOLD['why']}", "yellow")]
    assert told(a=UNTOLD, b=UNSURE, c=SURE, d=UNTOLD) == [
        (f"{BEATS}c 20.0 ± 3.0%", "yellow"),
        (f"{DOES_NOT}b -5.1 ± 8.0%", "red"),
        (f"{CANNOT}a: {UNTOLD['why']}; d: {UNTOLD['why']}", "yellow"),
    ]


def test_a_control_says_that_it_is_one() -> None:
    """Before all else, so that no skill of it is taken for the job's; skill in it is a fault."""
    first, second = told(control=True, a=SURE)
    assert first == (
        "a control: the targets were permuted, so that there is nothing to learn",
        "cyan",
    )
    assert second[0].startswith("a control must not beat the trivial prediction, and this one does")
    assert second[1] == "red"


def test_a_run_without_an_epoch_has_no_worth() -> None:
    """Nothing is said of it; nor of an older record, which does not know."""
    assert told() == []
    assert list(worth({})) == []


@pytest.mark.parametrize(("encoding", "around"), [("utf-8", "±"), ("ascii", "+-")])
def test_it_is_told_before_the_gates(encoding: str, around: str) -> None:
    """In the characters of the terminal, on a line of its own."""
    screen = io.TextIOWrapper(io.BytesIO(), encoding)
    end = {
        "event": "run.finished", "reason": "gates_failed", "exit_code": 6, "worth": {"a": UNSURE},
        "steps": 9, "epochs": 3, "seconds": 1.0,
        "gates": [{"gate": "a skill > 0%", "passed": False, "unit": "share", "epoch": 3,
                   "measured": -0.0512, "error": 0.08, "why": "its"}],
    }  # fmt: skip
    Readable(Console(file=screen, width=80, color_system=None))(end, "")
    screen.seek(0)
    lines = screen.read().splitlines()
    assert lines[0] == f"{DOES_NOT}a -5.1 {around} 8.0%"
    assert lines[1].strip() == "gates"
    assert any(f"-5.1 {around} 8.0%" in line and "failed" in line for line in lines[2:])


@pytest.mark.parametrize(
    ("crossing", "more"), [(0.0, ""), (None, ""), (0.031, " (crossing 0.031)")]
)
def test_crossing_quantiles_are_named(crossing: float | None, more: str) -> None:
    """Beside the task's first metric, if some cross."""
    started = {"tasks": {"delay": {"unit": "min"}}}
    epoch = {"tasks": {"delay": {"val_metrics": {"mae": 2.5, "r2": 0.5, "crossing": crossing}}}}
    assert metrics(started, epoch) == f"on the validation split: delay mae 2.5 min{more}"


def test_the_test_split_in_a_line() -> None:
    """Each task has its skill and its first metric there, in its unit, or what there is of them."""
    both = {"skill": 0.25, "skill_error": 0.03, "metrics": {"mae": 3.5, "r2": 0.1}}
    tasks = {
        "a": both,
        "b": {"metrics": {"accuracy": None}},
        "c": {"skill": -0.5, "skill_error": 0.1, "metrics": {}},
        "d": {"metrics": {}},
    }
    started = {"tasks": {"a": {"unit": "bars"}}}
    assert on_test(started, {"test": tasks}) == (
        "on the test split, read once: a skill 25.0 ± 3.0% and mae 3.5 bars, b accuracy -, "
        "c skill -50.0 ± 10.0%, d no skill"
    )
    many = on_test({}, {"test": {f"t{k}": both for k in range(MOST_METRICS + 2)}})
    assert many is not None
    assert many.endswith(", 2 more")
    assert on_test(started, {}) is None


def test_the_tasks_say_of_how_many_samples_their_loss_is() -> None:
    """With its standard error, if the training split is evaluated in part; else not a word."""
    whole = {"train_loss_original": 0.5, "grad_share": 1.0, "weight": 1.0}
    started = {"evaluated": 512, "samples": {"train": 3289}}
    part = {"epoch": 2, "tasks": {"a": whole | {"train_loss_error": 0.0123}}}
    title = str(summary(started, part, 200, UNICODE).title)
    assert title.endswith("; loss: of 512 of 3,289 samples, standard errors a 0.012")
    title = str(summary(started, {"epoch": 2, "tasks": {"a": whole}}, 200, UNICODE).title)
    assert title.endswith("epoch means")
