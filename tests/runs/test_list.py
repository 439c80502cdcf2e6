"""All runs of a store: rows, table and page, whatever state they are in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.exits import CommandError
from deploy.report import report
from job.cli.app import main
from job.compare.kept import train_to_end
from job.record.document import Body, seal
from job.record.result import GateOutcome, Result, TaskWorth
from job.record.run_index import About, RunIndex
from job.record.status import Status
from job.runs.rows import Row, read_rows
from job.spec.read import read_spec
from job.store import Store, Stored, open_store
from job.store.directory import DirectoryStore
from tests.support.browser import browser, open_page
from tests.support.tiny_job import write

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def status(phase: str, minutes: float, **more: Any) -> Body:
    heartbeat = (NOW - timedelta(minutes=minutes)).isoformat()
    return Status(phase=phase, heartbeat=heartbeat, **more).body()


def index(**finished: Any) -> Body:
    result = Result(run_id="r", **finished) if finished else None
    return RunIndex(epoch=1, spec_hash="0", finished=result).body()


def put(store: Store, run: str, spec: Any = None, **documents: Body) -> None:
    for name, body in documents.items():
        store.put(f"{run}/{name}.json", seal(body))
    if spec is not None:
        store.put(f"{run}/spec.json", json.dumps(spec).encode())


def fill(store: Store) -> None:
    """A store with runs in every state, and with things that are no runs."""
    gates = (GateOutcome(gate="a", passed=True), GateOutcome(gate="b", passed=False))
    worth = {
        "up": TaskWorth(beats=True, skill=0.64, error=0.061),
        "down": TaskWorth(beats=False, skill=-0.1, error=0.02),
        "odd": TaskWorth(beats=False, why="too few samples"),
    }
    ended: Any = {"reason": "gates_failed", "exit_code": 6, "gates": gates, "worth": worth}
    label = {"label": "wide", "notes": "twice as wide", "extends": "job/zero"}
    put(store, "job/ended", label, latest=index(**ended), status=status("gates_failed", 90))
    passed = index(reason="succeeded", exit_code=0)
    put(store, "job/passed", {}, latest=passed, status=status("succeeded", 200))
    epochs = {"train": {"epochs": 9}}
    put(store, "job/moving", epochs, latest=index(), status=status("training", 1, epoch=3))
    put(store, "job/silent", epochs, latest=index(), status=status("training", 60, epoch=3))
    put(store, "job/cut", epochs, latest=index(), status=status("interrupted", 70, epoch=4))
    put(store, "job/rented", pods={"attempts": []})
    put(store, "job/broken", {}, latest=passed, status=status("succeeded", 300))
    store.put("job/broken/latest.json", b'{"half')
    store.put("job/lost/events/000001-000000000001-000000000002-0123456789abcdef.jsonl", b"x")
    put(store, "job/vague", latest=passed, status=status("succeeded", 400))
    store.put("job/vague/spec.json", b"[")
    store.put("notes/todo.txt", b"no run")
    store.put("job/other/readme.md", b"no run")


def test_every_state_has_its_row(store: Store) -> None:
    """What a run's documents say is in its row; damage is said there, and hides no other run."""
    fill(store)
    rows = {row.run.removeprefix("job/"): row for row in read_rows(store, NOW)}
    states = {name: row.state for name, row in rows.items()}
    assert states == {
        **{"moving": "training", "silent": "silent", "cut": "interrupted", "ended": "gates_failed"},
        **{"passed": "passed", "broken": "damaged", "vague": "passed", "lost": "damaged"},
        **{"rented": "not begun"},
    }
    assert list(rows)[:5] == ["moving", "silent", "cut", "ended", "passed"]
    ended = rows["ended"]
    assert (ended.detail, ended.label, ended.origin) == ("1 of 2 gates passed", "wide", "job/zero")
    assert ended.least == ("down", ended.skills["down"])
    assert ended.age_seconds == 90 * 60
    assert ended.bytes == sum(entry.size for entry in store.list("job/ended/"))
    assert rows["moving"].detail == "epoch 3 of 9"
    assert rows["silent"].detail == "training; epoch 3 of 9"
    assert "latest.json is damaged" in rows["broken"].detail
    assert rows["lost"].detail == "latest.json is missing"
    assert "spec.json is damaged" in rows["vague"].detail


def test_few_documents_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most three small documents a run, however many objects it has."""
    store, asked = open_store(tmp_path), list[str]()
    fill(store)
    get = DirectoryStore.get

    def counted(self: DirectoryStore, key: str) -> Stored:
        asked.append(key)
        return get(self, key)

    monkeypatch.setattr(DirectoryStore, "get", counted)
    count = len(read_rows(store, NOW))
    assert 0 < len(asked) <= 3 * count
    assert not [key for key in asked if "/events/" in key]


def test_one_document_of_a_run_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its index says all that status and spec do, and they are not read; the row is the same as
    from an index of an older version, without it."""
    spec = read_spec(write(tmp_path, {"label": "wide", "notes": "as it was", "train.epochs": 1}))
    store = open_store(tmp_path / "runs")
    train_to_end(store, "r", spec, tmp_path)
    asked, get = list[str](), DirectoryStore.get

    def noted(self: DirectoryStore, key: str) -> Stored:
        asked.append(key)
        return get(self, key)

    monkeypatch.setattr(DirectoryStore, "get", noted)
    now = datetime.now(UTC)
    [row] = read_rows(store, now)
    assert asked == ["small/r/latest.json"]
    assert (row.state, row.label, row.notes) == ("passed", "wide", "as it was")
    stored = RunIndex.read(store, "small/r")
    assert stored is not None
    store.put("small/r/latest.json", seal(stored.model_copy(update={"about": None}).body()))
    [older] = read_rows(store, now)
    assert None not in (row.age_seconds, older.age_seconds)
    assert older == row.model_copy(update={"age_seconds": older.age_seconds, "bytes": older.bytes})


def test_what_a_run_comes_from(tmp_path: Path) -> None:
    """Stands in the index as in the spec."""
    begun = read_spec(write(tmp_path, {"model.start_from": {"run": "zero"}}))
    assert [About.of(begun).origin, About.of(read_spec(write(tmp_path))).origin] == ["zero", ""]
    extended = begun.model_copy(update={"extends": "one"})
    assert About.of(extended).origin == "one"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, and a JSON line a run for programs."""
    fill(open_store(tmp_path))

    def listed(*options: str) -> tuple[str, str]:
        with pytest.raises(SystemExit, match="0"):
            main(["list", *options])
        return capsys.readouterr()

    out, _ = listed("--store", str(tmp_path), "--json")
    lines = [Row.model_validate_json(line) for line in out.splitlines()]
    assert {row.run for row in lines} >= {"job/ended", "job/broken"}
    out, _ = listed("--store", str(tmp_path))
    [line] = [line for line in out.splitlines() if line.startswith("job/ended")]
    assert "up 64.0 ± 6.1%, down -10.0 ± 2.0%, odd not measurable" in line
    assert "gates failed" in line
    _, err = listed("--store", str(tmp_path / "nothing"))
    assert "holds no run" in err


def test_the_page(tmp_path: Path) -> None:
    """A browser shows a row a run; a heading sorts it, words filter it, damage has its row."""
    fill(open_store(tmp_path / "store"))
    page = tmp_path / "all.html"
    report(every=True, store=str(tmp_path / "store"), to=page)
    with browser() as chromium, open_page(chromium, page, 1280) as opened:
        assert len(opened.cells(".runs")) == 9
        opened.page.click('[data-sort="least skill"]')
        rows = opened.cells(".runs")
        assert rows[0][0] == "job/ended"
        assert rows[0][3] == "−10.0 ± 2.0\xa0%"
        assert opened.page.locator('th[aria-sort="descending"]').inner_text() == "least skill ▾"
        opened.page.click("[data-sort=run]")
        names = [row[0] for row in opened.cells(".runs")]
        assert names == sorted(names)
        opened.page.fill("input[type=search]", "wide failed")
        assert [row[0] for row in opened.cells(".runs")] == ["job/ended"]
        opened.page.fill("input[type=search]", "damaged")
        assert {row[0] for row in opened.cells(".runs")} >= {"job/broken", "job/lost"}
        assert opened.run("document.documentElement.scrollWidth <= innerWidth")


def test_either_runs_or_all(tmp_path: Path) -> None:
    """A page of runs and one of all are two things, and an empty store has no page."""
    with pytest.raises(CommandError, match="found neither"):
        report(to=tmp_path / "x.html")
    with pytest.raises(CommandError, match="found both"):
        report(["r"], every=True, to=tmp_path / "x.html")
    with pytest.raises(CommandError, match="holds no run"):
        report(every=True, store=str(tmp_path), to=tmp_path / "x.html")
