"""Where a run is, told from its documents: at once where its process is gone, or long after."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.text import Text

from deploy.book import Book, Found
from deploy.diff import diff
from deploy.ends import FAILED, NOT_FINISHED
from deploy.state import State, read_state
from deploy.states_shown import print_states
from job.document import Document, seal
from job.lease import Lease
from job.store import Store, open_store
from tests.command import environment
from tests.recorded import Recorded

FOUR = ("type", "pointers", "binary", "countdown")
NOW = datetime.now(UTC)
RUN = "jade/r1"
TRAINING = {"phase": "training", "epoch": 3, "step": 60, "steps": 1260, "eta_seconds": 9.5}
HOLD = """
import sys, time
from job.lease import Lease
from job.store import open_store
Lease(open_store(sys.argv[1]), "jade/r1", 60).acquire(0, False)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Where a run is that has told three epochs."""
    run, store = Recorded(*FOUR), open_store(tmp_path / "runs")
    run.begin()
    run.train(60)
    run.store(store, RUN)
    store.put(f"{RUN}/spec.json", b'{"train": {"epochs": 10}}')
    return store


def tell(store: Store, ago: float, **more: object) -> None:
    """Leave a status, so many seconds ago."""
    heartbeat = (NOW - timedelta(seconds=ago)).isoformat()
    body = {"schema": 1, "heartbeat": heartbeat, **TRAINING, **more}
    store.put(f"{RUN}/status.json", seal(body))


def release(store: Store) -> None:
    """Give the lease back, as a process does that was interrupted."""
    lease = Lease(store, RUN, 60)
    lease.acquire(0, take_over=False)
    lease.release()


def state(store: Store) -> State:
    """As `status` reads it, RunPod having said that there are no pods."""
    return read_state(Found(name="jade", run_id="r1", store=store.url), NOW, [])


@pytest.fixture
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    """A process that has the run."""
    command = [sys.executable, "-c", HOLD, store.url]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def logs(store: Store) -> subprocess.CompletedProcess[str]:
    """`deploy.logs -f` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.logs", f"{store.url}/{RUN}", "-f"],
        env=environment(), capture_output=True, text=True, timeout=30,
    )  # fmt: skip


class TestLocal:
    @pytest.mark.parametrize("ago", [1.0, 3600.0])
    def test_an_interruption_is_not_forgotten(self, store: Store, ago: float) -> None:
        """Once the process has let go: no ETA, and the command that goes on, a minute later too."""
        tell(store, ago, phase="interrupted")
        release(store)
        found = state(store)
        assert (found.state, found.exit_code, found.eta_seconds) == (
            *("interrupted", NOT_FINISHED, None),
        )
        assert found.again == f"python -m job run SPEC --run-id r1 --store {store.url}"

    def test_a_killed_process_is_told_at_once(
        self, store: Store, holder: subprocess.Popen[str]
    ) -> None:
        """While it lives it trains; killed, it does not, however fresh its heartbeat is."""
        tell(store, 1)
        assert (state(store).state, state(store).eta_seconds) == ("training", 9.5)
        assert state(store).again is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        found = state(store)
        assert (found.state, found.exit_code, found.eta_seconds) == ("killed", NOT_FINISHED, None)
        assert found.again is not None
        ended = logs(store)
        assert ended.returncode == NOT_FINISHED
        assert f"jade/r1: killed; to go on: {found.again}" in ended.stderr.splitlines()
        assert "waiting" not in ended.stderr

    def test_a_run_that_began_again_is_not_interrupted(
        self, store: Store, holder: subprocess.Popen[str]
    ) -> None:
        """Its new process has not told its phase yet; nobody is told to start a third one."""
        assert holder.poll() is None
        tell(store, 3600, phase="interrupted")
        assert state(store).state == "silent"
        assert state(store).again is None

    def test_a_container_goes_on_by_itself(self, store: Store) -> None:
        """Its supervisor may start the run again: nobody is told to."""
        tell(store, 1, phase="interrupted")
        release(store)
        store.put(f"{RUN}/boots.json", seal({"boots": 1}))
        assert (state(store).state, state(store).again) == ("interrupted", None)

    def test_epochs_of_a_finished_run(self, store: Store) -> None:
        """Those of the whole run, as its spec says."""
        tell(store, 1, phase="succeeded")
        Document(store, f"{RUN}/result.json").write({"reason": "succeeded", "exit_code": 0})
        found = state(store)
        assert (found.state, found.epoch, found.epochs) == ("finished", 3, 10)


class TestRented:
    @pytest.fixture(autouse=True)
    def book(self, store: Store) -> None:
        """A run with one pod."""
        pod = {"number": 1, "pod_name": "evengrad-jade-r1-1", "gpu": "L4", "cloud": "SECURE"}
        book = {
            **{"name": "jade", "run_id": "r1", "store": store.url, "spec_hash": "", "image": "i"},
            **{"deadline": NOW, "attempts": [{**pod, "pod": "p1", "intended": NOW}]},
        }
        told = json.loads(Book.model_validate(book).model_dump_json())
        Document(store, f"{RUN}/pods.json").write(told)

    def test_an_interrupted_pod_may_go_on(self, store: Store) -> None:
        """RunPod starts its container again; where no pod is left the run is lost."""
        tell(store, 3600, phase="interrupted")
        release(store)
        found = Found(name="jade", run_id="r1", store=store.url)
        unasked = read_state(found, NOW, None)
        assert (unasked.state, unasked.again) == ("interrupted", None)
        assert state(store).state == "lost"
        assert state(store).again == "python -m deploy.submit --resume r1"

    def test_a_failure(self, store: Store) -> None:
        """Goes on by a new submission."""
        tell(store, 3600, phase="failed", exit_code=1)
        assert (state(store).state, state(store).exit_code) == ("failed", FAILED)
        assert state(store).again == "python -m deploy.submit --resume r1"


@pytest.mark.parametrize("width", [30, 60, 80, 100, 160])
@pytest.mark.parametrize("count", [1, 3])
def test_the_table_fits_and_cuts_no_number(
    monkeypatch: pytest.MonkeyPatch, width: int, count: int
) -> None:
    """Of several runs whole columns give way; of one a line for each column tells them all."""
    losses = {"type": 0.9113, "pointers": 0.003548, "binary": 0.2069, "countdown": None}
    shown = State(
        run="smoke/20261123-063845-4381", store="runs", state="training", epoch=6, epochs=10,
        eta_seconds=93.0, losses=losses, gpu="NVIDIA GeForce RTX 4090", cost_per_hour=0.3456,
        spent_usd=1.2345, age_seconds=4000.0, exit_code=NOT_FINISHED,
    )  # fmt: skip
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setitem(os.environ, "COLUMNS", str(width))
    monkeypatch.setattr("deploy.states_shown.WIDTH", width)
    print_states([shown] * count)
    text = screen.getvalue()
    assert max(cell_len(Text(line).plain) for line in text.splitlines()) <= width
    words = text.split()
    assert words.count("training") == count
    if count == 1:
        assert {"6/10", "1m33s", "0.3456", "1.23", "0.911", "0.00355", "nan", "1h06m"} <= set(words)
    elif width == 30:
        assert "no room for: EPOCH, REASON, ETA," in " ".join(words)
    elif width == 160:
        assert "no room" not in text
    assert "…" not in text


def test_diff_spells_numbers_as_the_screen_does(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gates in their unit, steps with a comma."""
    spec = Path(__file__).parents[1] / "docker" / "smoke.json"
    store.put(f"{RUN}/spec.json", spec.read_bytes())
    gates = [
        {"gate": "a drops > 20%", "passed": True, "measured": 0.6763, "unit": "share"},
        {"gate": "gradient of a / b", "passed": False, "unit": "ratio"},
    ]
    told = {"reason": "gates_failed", "epochs": 10, "steps": 1260, "seconds": 2.12}
    Document(store, f"{RUN}/result.json").write({**told, "exit_code": 6, "gates": gates})
    diff(f"{store.url}/{RUN}", str(spec))
    text = capsys.readouterr().out
    assert "passed, 67.6%" in text
    assert "failed, -" in text
    assert "1,260" in text
