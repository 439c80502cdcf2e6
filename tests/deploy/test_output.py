"""What commands write: safe for a terminal, and files whole or not at all."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.exits import INVALID, CommandError
from deploy.fetch import _write as write_whole
from deploy.output import ABANDONED_SECONDS, log_line, partial_file, print_json
from deploy.plan.plan import Candidate, Plan
from deploy.plan.render import PlanContext, show_plan
from deploy.runpod.models import Pod
from deploy.runs.exit_line import exit_line
from deploy.runs.state import state_of_pod
from deploy.runs.table import print_states
from job.show.printable import printable
from job.spec import Resources

HOSTILE = "a\x1b]0;owned\x07b\x1b[2Jc\r\nd\x9b31me\u202efg"
"""Sets a title, clears the screen, goes to the next line, colours, and turns the text round."""


def is_safe(text: str) -> bool:
    """Whether a terminal only prints it, line by line."""
    return all(c.isprintable() or c == "\n" for c in text)


def test_everything_that_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress, JSON, tables of runs and plans carry no control character from outside."""
    log_line(HOSTILE)
    print_json({"hostile": HOSTILE})
    captured = capsys.readouterr()
    assert captured.err == printable(HOSTILE) + "\n"
    assert is_safe(captured.out)
    assert json.loads(captured.out)["hostile"] == HOSTILE
    pod = {"id": HOSTILE, "name": HOSTILE, "status": HOSTILE, "gpu": {"id": HOSTILE}}
    state = state_of_pod(Pod.model_validate(pod))
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    print_states([state.model_copy(update={"losses": {HOSTILE: 1.0}, "error": HOSTILE})])
    show_plan(
        Plan(
            name="a",
            run_id="b",
            spec_hash="c",
            resources=Resources(gpu=(HOSTILE,), max_price_per_hour=1, max_hours=1),
            image=HOSTILE,
            min_cuda="13.0",
            variables={HOSTILE: "x"},
            registry=None,
            now=datetime.now(UTC),
            candidates=(Candidate(HOSTILE, "SECURE", 1.0, HOSTILE),),
        ),
        PlanContext(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (HOSTILE,)),
        as_json=False,
        dry_run=True,
        request=False,
    )
    assert is_safe(screen.getvalue())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("supervisor: exit 2: EVENGRAD_SPEC_HASH: a; b", "exit 2: EVENGRAD_SPEC_HASH: a; b"),
        ("exit 1: out of disk", "exit 1: out of disk"),
        ("exit 71", "exit 71"),
        ("it is gone before its first sign of life; exit 2: why", "exit 2: why"),
        ("supervisor: exit 0: run r has finished", None),
        ("supervisor: exit 75: interrupted", None),
        ("succeeded · exit 0 · 20 epochs", None),
        ("the trainer ended with exit 1: no", None),
        ("supervisor: RunPod has accepted the end of pod p; next try in 60 s", None),
    ],
)
def test_lines_that_say_why_a_container_ended(line: str, reason: str | None) -> None:
    """`exit N: reason` of the supervisor or the trainer, and no other line."""
    assert exit_line(line) == reason


# --- files ----------------------------------------------------------------------------------------


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    """A writer that fails leaves the old file, and nothing beside it."""
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(InterruptedError):
        _write_half(path)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text() == "old"


def _write_half(path: Path) -> None:
    with partial_file(path) as file:
        file.write(b"half")
        file.flush()
        raise InterruptedError


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    """Each has a partial file of its own; the second one to end wins, whole."""
    path = tmp_path / "page.html"
    with partial_file(path) as one, partial_file(path) as other:
        one.write(b"one")
        other.write(b"other")
        for file in (one, other):
            file.flush()
            Path(file.name).replace(path)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert path.read_bytes() == b"other"


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    """Partial files of this very file that are old go; young ones, and all others, stay."""
    mine = [".page.html.part", f".page.html.{'0' * 32}.part"]
    others = [".page.html.x.part", ".other.html.part", ".page.html", "page.html.part"]
    young = f".page.html.{'1' * 32}.part"
    for name in (*mine, *others, young):
        (tmp_path / name).touch()
        if name != young:
            old = time.time() - 2 * ABANDONED_SECONDS
            os.utime(tmp_path / name, (old, old))
    with partial_file(tmp_path / "page.html"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {*others, young}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the file that was asked for, not a partial one."""
    with pytest.raises(OSError, match="file") as caught, partial_file(tmp_path / "no" / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "no" / "file")


def test_fetched_files_overwrite_nothing(tmp_path: Path) -> None:
    """The same content is fine; another content stays, and nothing is left beside it."""
    path = tmp_path / "model.safetensors"
    assert write_whole(path, [b"a", b"b"]) == "model.safetensors"
    assert write_whole(path, [b"ab"]) == "model.safetensors"
    with pytest.raises(CommandError) as caught:
        write_whole(path, [b"other"])
    assert caught.value.code == INVALID
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert path.read_bytes() == b"ab"
