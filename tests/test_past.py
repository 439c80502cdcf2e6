"""What a screen knows of a run that another process began: enough to draw, read in no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.past import EPOCHS, past
from job.progress import Progress
from job.store import Stored
from job.store_directory import DirectoryStore
from tests.recorded import STEPS, Recorded

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
    """The last epochs up to the step, each once and in order, and what was told beside them."""
    told = past(store, RUN, 78 * STEPS)
    epochs = [e["epoch"] for e in told if e["event"] == "epoch"]
    assert epochs == list(range(79 - EPOCHS, 79))
    assert [e["event"] for e in told if e["event"] != "epoch"] == ["alarm"]
    assert past(store, RUN, 80 * STEPS)[-1]["event"] == "checkpoint.saved"
    progress = Progress()
    for event in told:
        progress.take(event)
    assert len(progress.curve("a")) == EPOCHS


def test_a_long_run_is_not_read_whole(store: Counting) -> None:
    """Not beyond the epochs that are drawn, and not for longer than a start may be delayed."""
    every = len(list(store.list(f"{RUN}/events/")))
    past(store, RUN, 80 * STEPS)
    assert every * EPOCHS / 80 <= store.segments < every * (EPOCHS + 8) / 80
    store.segments = 0
    assert past(store, RUN, 80 * STEPS, seconds=0) != []
    assert store.segments == 1


def test_what_cannot_be_read_is_not_shown(store: Counting) -> None:
    """A run that is missing, a segment that is damaged: what was read before it is there."""
    assert past(store, "no/body", 5) == []
    middle = list(store.list(f"{RUN}/events/"))[-10].key
    store.put(middle, b"{}")
    assert 0 < len(past(store, RUN, 80 * STEPS)) < EPOCHS
