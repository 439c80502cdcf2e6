"""Events from before a resume: enough for a screen to draw, and read at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.cli.earlier_events import EPOCHS, earlier_events
from job.show.progress import Progress
from job.store import Stored
from job.store.directory import DirectoryStore
from tests.support.fake_history import STEPS, Recorded

RUN = "jade/r1"


class Counting(DirectoryStore):
    """A store that counts what is read of events."""

    segments = 0

    def get(self, key: str) -> Stored:
        self.segments += "/events/" in key
        return super().get(key)


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    """Holds a run of 80 epochs; it went back from its epoch 70 to 68, and was cut off in 81."""
    run = Recorded("a", epochs=100)
    run.begin()
    run.train(70 * STEPS)
    run.alarm("a")
    run.resume(68 * STEPS)
    run.train(12 * STEPS)
    run.save()
    run.train(STEPS // 2)
    store = Counting(tmp_path)
    run.store(store, RUN)
    return store


def test_epochs_alarms_and_the_checkpoint(store: Counting) -> None:
    """The last epochs up to the step, each once and in order, and the alarms and the checkpoint."""
    shown = earlier_events(store, RUN, 78 * STEPS, 600)
    epochs = [e["epoch"] for e in shown if e["event"] == "epoch"]
    assert epochs == list(range(79 - EPOCHS, 79))
    assert [e["event"] for e in shown if e["event"] != "epoch"] == ["alarm"]
    assert earlier_events(store, RUN, 80 * STEPS, 600)[-1]["event"] == "checkpoint.saved"
    progress = Progress()
    for event in shown:
        progress.take(event)
    assert len(progress.curve("a")) == EPOCHS


def test_a_long_run_is_not_read_whole(store: Counting) -> None:
    """Reading stops after the epochs that are drawn, and after the longest delay of a start."""
    every = len(list(store.list(f"{RUN}/events/")))
    earlier_events(store, RUN, 80 * STEPS, 600)
    assert every * EPOCHS / 80 <= store.segments < every * (EPOCHS + 8) / 80
    store.segments = 0
    assert earlier_events(store, RUN, 80 * STEPS, seconds=0) != []
    assert store.segments == 1


def test_what_cannot_be_read_is_not_shown(store: Counting) -> None:
    """A missing run has no events; before a damaged segment the later events are kept."""
    assert earlier_events(store, "no/body", 5, 600) == []
    middle = list(store.list(f"{RUN}/events/"))[-10].key
    store.put(middle, b"{}")
    assert 0 < len(earlier_events(store, RUN, 80 * STEPS, 600)) < EPOCHS
