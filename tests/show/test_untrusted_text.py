"""Strings of a record reach a terminal without control characters, and JSON as they are."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from job.compare.summary import print_table
from job.diagnose.diagnose import Diagnosis
from job.diagnose.probe import probe
from job.diagnose.show import diagnosis_json, print_diagnosis
from job.events.log import Line
from job.record.document import Document
from job.show.console import Screen
from job.show.frame import ScreenContext, frame
from job.show.glyphs import Viewport
from job.show.lines import Readable
from job.show.live import Live
from job.show.progress import Progress
from job.store import open_store
from job.train.trainer import Trainer
from tests.support.command import on_terminal
from tests.support.fake_history import STEPS, Recorded
from tests.support.terminal import Painted, Terminal
from tests.support.tiny_job import job as tiny_job
from tests.support.tiny_job import write

HOSTILE = "\x1b[2Jba\x9b31mrs\u202e\x07\nforged[/]"
CLEAN = "bars forged[/]"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab, newline and ESC."""
OWN = re.compile(r"\x1b\[(\d+;)*\d*m|\x1b\[(2K|1A)|\r")
"""What the program itself sends to a terminal: colours, and the way back to a screen's begin."""


def hostile_run() -> Recorded:
    """A run whose record has control characters in every string that is free text."""
    run = Recorded("a", "b")
    run.begin()
    run.lines[0] |= {"device": HOSTILE, "skipped": {HOSTILE: 3}}
    run.lines[0]["tasks"]["b"] |= {"unit": HOSTILE, "loss_unit": HOSTILE}
    run.train(3 * STEPS)
    run.alarm("b")
    run.lines[-1] |= {"message": HOSTILE, "kind": HOSTILE}
    run.gate(passed=False)
    run.lines[-1]["gate"] = HOSTILE
    run.finish()
    run.lines[-1] |= {"error": HOSTILE, "reason": HOSTILE}
    run.lines[-1]["gates"][0] |= {"gate": HOSTILE, "why": HOSTILE}
    run.lines[-1]["worth"] = {"a": {"beats": False, "why": HOSTILE}}
    run.lines.append({**run.lines[-1], "event": HOSTILE, "seq": len(run.lines) + 1})
    return run


def assert_printable(text: str) -> None:
    """The string is there, on one line, without a command for the terminal."""
    plain = OWN.sub("", text)
    assert "bars" in plain
    assert not FORBIDDEN.search(plain)
    assert "\x1b" not in plain
    assert not re.search(r"^forged", plain, re.MULTILINE)


def test_lines() -> None:
    """A line for each event, whatever line breaks its strings have."""
    terminal = Painted(140, 60)  # so wide that no table breaks a text
    readable = Readable(terminal.console)
    for line in hostile_run().lines:
        readable(line, "")
    assert_printable(terminal.raw.decode())
    assert f"{CLEAN}: 3" in terminal.everything
    assert f"alarm step 60, {CLEAN}: {CLEAN}" in terminal.everything


def test_live_screen() -> None:
    """The screen keeps its lines, and nothing on it moves the cursor."""
    terminal = Painted(140, 60)
    live = Live(terminal.console)
    lines = hostile_run().lines
    for line in lines[:-2]:
        live(line, "")
    live.paint()
    painted = [line for line in terminal.visible if CLEAN in line]
    assert len(painted) == 4  # device, the task's row, its alarm, the gate
    for line in lines[-2:]:
        live(line, "")
    assert_printable(terminal.raw.decode())


@pytest.mark.parametrize("height", [24, None])
def test_frame(height: int | None) -> None:
    """No line of the screen has a line break."""
    progress = Progress()
    for line in hostile_run().lines:
        progress.take(line)
    context = ScreenContext(datetime.now(UTC), store=HOSTILE)
    lines = frame(progress, Viewport(80, height, True), context)
    assert all(line.plain.isprintable() for line in lines)


@pytest.mark.slow
def test_logs(tmp_path: Path) -> None:
    """`deploy.logs` on a terminal and in a pipe; with --json the data are whole, and escaped."""
    run, store = hostile_run(), open_store(tmp_path / "runs")
    run.store(store, "jade/r1")
    Document(store, "jade/r1/result.json").write({"reason": "gates_failed", "exit_code": 6})
    logs = (sys.executable, "-m", "deploy.logs", "jade/r1", "--store", "runs")
    state, size = str(tmp_path / "state"), (140, 60)
    for options in ((), ("--tail", "9"), ("-f",)):
        with Terminal(tmp_path, *logs, *options, size=size, EVENGRAD_STATE=state) as terminal:
            assert terminal.wait() == (106 if options == ("-f",) else 0)
        assert_printable(terminal.raw.decode())
    with Terminal(tmp_path, *logs, "--json", EVENGRAD_STATE=state) as terminal:
        assert terminal.wait() == 0
    assert b"\x1b" not in terminal.raw
    assert terminal.raw.isascii()
    printed: list[Line] = [json.loads(line) for line in terminal.raw.decode().splitlines()]
    assert printed[0]["tasks"]["b"]["unit"] == HOSTILE


@pytest.mark.slow
def test_run(tmp_path: Path) -> None:
    """`run` on a terminal: a unit with ESC is refused in one line, a store's name is printed."""
    spec = write(tmp_path, {"train.epochs": 1})
    code, text = on_terminal(tmp_path, "run", "spec.json", "--store", "ba\x1b[2Jrs", TERM="dumb")
    assert code == 0
    assert_printable(text)
    values = json.loads(spec.read_text())
    values["tasks"][1]["unit"] = HOSTILE
    spec.write_text(json.dumps(values))
    code, text = on_terminal(tmp_path, "run", "spec.json")
    assert code == 2
    assert text.startswith("$.tasks[1].unit: found ")
    assert "\x1b" not in text


@pytest.mark.slow
def test_diagnosis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of `diagnose`; its JSON is escaped."""
    write(tmp_path)
    spec, data = tiny_job(tmp_path)
    tasks = [task.model_copy(update={"unit": HOSTILE}) for task in spec.tasks]
    probed = probe(Trainer(spec.model_copy(update={"tasks": tuple(tasks)}), data))
    diagnosis = Diagnosis([], [], probed, probed, None, 1, None)
    print_diagnosis(Screen(), diagnosis, {})
    assert_printable(capsys.readouterr().out)
    assert json.dumps(diagnosis_json(diagnosis, {})).isascii()


def test_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    """The table of `compare` and the lines below it."""
    value = {"mean": 0.5, "sd": None}
    gate = {"gate": HOSTILE, "unit": "share", "passed": 1, "measured": value}
    row = {"row": HOSTILE, "seeds": 1, "step_ms": value, "tasks": {}, "gates": [gate]}
    more = {"failed": [f"seed 0: {HOSTILE}"], "runs": [HOSTILE]}
    print_table([row | more], store=HOSTILE)
    assert_printable(capsys.readouterr().out)
