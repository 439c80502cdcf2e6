"""The page of benchmarks says what was measured, where, and nothing else."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.bench import header
from tests.bench.header import append, begin, headers, rows
from tests.bench.survival.campaign import Attempt, Outcome, Step, irregular, lasting
from tests.bench.survival.problem import BATCH, PER_EPOCH, STEPS
from tests.bench.survival.table import markdown
from tests.support.benchmarks import sections


def test_a_file_says_what_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header stands before its results, and a further one where the machine has changed."""
    path = tmp_path / "results" / "x.jsonl"
    for machine in ("one", "one", "other"):
        monkeypatch.setattr(header, "_machine", lambda name=machine: name)
        begin(path, "x", ["numpy"])
        append(path, {"of": machine})
    assert [each.machine for each in headers(path)] == ["one", "other"]
    assert rows(path) == [{"of": "one"}, {"of": "one"}, {"of": "other"}]
    assert headers(path)[0].versions.keys() == {"python", "torch", "numpy"}


def test_who_measured_nothing_made_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header without results below it counts for none, and the next one takes its place."""
    path = tmp_path / "x.jsonl"
    for machine, results in (("one", 0), ("other", 1), ("third", 0), ("other", 1), ("third", 0)):
        monkeypatch.setattr(header, "_machine", lambda name=machine: name)
        begin(path, "x")
        for _ in range(results):
            append(path, {"of": machine})
    assert [each.machine for each in headers(path)] == ["other"]
    assert rows(path) == [{"of": "other"}] * 2
    assert len(path.read_text().splitlines()) == 4


LOST = Outcome("evengrad, every epoch", 60, 0, 2, 160, 200, 9.0, 5.0, None, True, 0.0, 0, 0, "a")


def test_the_page_has_a_section_for_each_file(tmp_path: Path) -> None:
    """With its table, and with what made it; without files there is none."""
    assert sections(tmp_path) == ""
    path = tmp_path / "survival.jsonl"
    begin(path, "survival")
    append(path, asdict(LOST))
    (made,) = headers(path)
    text = sections(tmp_path)
    assert text.startswith("## Survival\n")
    assert text.count("\n## ") == 0
    assert "| evengrad, every epoch | 80 | 2.0 | identical | 0 · 0 | – |" in text
    assert all(part in text for part in (made.command, made.machine, made.date, "torch 2"))


def test_what_is_worse_shows(tmp_path: Path) -> None:
    """Weights that differ, data seen twice, a training that does not start again."""
    path = tmp_path / "survival.jsonl"
    worse = replace(LOST, identical=False, difference=0.25, repeated=3, skipped=4)
    torn = replace(LOST, kill="writing", error="EOFError", identical=None)
    for each in (worse, replace(LOST, seed=1, digest="b"), torn):
        append(path, asdict(each))
    row = markdown(path).splitlines()[-1]
    assert row.endswith(
        "| 80 | 2.0 | differ without kills too | 3 · 4 | does not start again: `EOFError` |"
    )
    path.unlink()
    append(path, asdict(worse))
    assert "| differ by up to 0.25 |" in markdown(path)


def test_data_seen_again_is_counted() -> None:
    """What an attempt goes on from stays; the rest of the one before it is taken back."""

    def steps(first: int, last: int, shift: int = 0) -> list[Step]:
        each = range(first, last + 1)
        places = [((n - 1) % PER_EPOCH * BATCH + shift) for n in each]
        return [Step(n, [*range(p, p + BATCH)]) for n, p in zip(each, places, strict=True)]

    killed = Attempt(-9, 1.0, steps(1, PER_EPOCH + 7), "")
    rest = Attempt(0, 1.0, steps(PER_EPOCH + 1, STEPS), "")
    assert irregular(lasting([killed, rest])) == (0, 0)
    begins_anew = steps(1, PER_EPOCH - 7)  # the epoch's first batches once more
    other = [Step(PER_EPOCH + 7 + step.number, step.rows) for step in begins_anew]
    later = steps(2 * PER_EPOCH + 1, STEPS)
    chain = lasting([killed, Attempt(0, 1.0, [*other, *later], "")])
    assert irregular(chain) == (7 * BATCH, 7 * BATCH)
    assert irregular([*chain, Step(STEPS + 1, [0, 1])]) == (7 * BATCH + 2, 7 * BATCH)
