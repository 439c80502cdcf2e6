"""The state of a run, read from its documents, also long after its process has gone."""

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

from deploy.diff import diff
from deploy.exits import JOB_FAILED, NOT_FINISHED
from deploy.runpod.models import Pod
from deploy.runs.state import RunState, read_state
from deploy.runs.table import print_states
from job.record.document import Document, seal
from job.record.lease import Lease
from job.record.pods import PodsRecord, RunRef
from job.store import Store, open_store
from tests.support.command import environment
from tests.support.fake_history import Recorded

FOUR = ("type", "pointers", "binary", "countdown")
NOW = datetime.now(UTC)
RUN = "jade/r1"
TRAINING = {"phase": "training", "epoch": 3, "step": 60, "steps": 1260, "eta_seconds": 9.5}
HOLD = """
import sys, time
from job.record.lease import Lease
from job.store import open_store
Lease(open_store(sys.argv[1]), "jade/r1", 60).acquire(0, False)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store of a run that has stored three epochs."""
    run, store = Recorded(*FOUR), open_store(tmp_path / "runs")
    run.begin()
    run.train(60)
    run.store(store, RUN)
    store.put(f"{RUN}/spec.json", b'{"train": {"epochs": 10}}')
    return store


def put_status(store: Store, ago: float, **more: object) -> None:
    """Store a status of so many seconds ago."""
    heartbeat = (NOW - timedelta(seconds=ago)).isoformat()
    body = {"schema": 1, "heartbeat": heartbeat, **TRAINING, **more}
    store.put(f"{RUN}/status.json", seal(body))


def release(store: Store) -> None:
    """Give the lease back, as a process does that was interrupted."""
    lease = Lease(store, RUN, 60)
    lease.acquire(0, take_over=False)
    lease.release()


def state(store: Store) -> RunState:
    """As `status` reads it, if RunPod lists no pods."""
    return read_state(RunRef(name="jade", run_id="r1", store=store.url), NOW, [])


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
        env=environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip


class TestLocal:
    @pytest.mark.parametrize("ago", [1.0, 3600.0])
    def test_an_interruption_is_not_forgotten(self, store: Store, ago: float) -> None:
        """Once the process has let go: no ETA, and the command to resume, a minute later too."""
        put_status(store, ago, phase="interrupted")
        release(store)
        found = state(store)
        assert (found.state, found.exit_code, found.eta_seconds) == (
            *("interrupted", NOT_FINISHED, None),
        )
        assert found.resume_command == f"python -m job run SPEC --run-id r1 --store {store.url}"

    def test_a_killed_process_is_noticed_at_once(
        self, store: Store, holder: subprocess.Popen[str]
    ) -> None:
        """While it lives it trains; killed, it does not, however fresh its heartbeat is."""
        put_status(store, 1)
        assert (state(store).state, state(store).eta_seconds) == ("training", 9.5)
        assert state(store).resume_command is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        found = state(store)
        assert (found.state, found.exit_code, found.eta_seconds) == ("killed", NOT_FINISHED, None)
        assert found.resume_command is not None
        ended = logs(store)
        assert ended.returncode == NOT_FINISHED
        assert (
            f"jade/r1: killed; resume it with: {found.resume_command}" in ended.stderr.splitlines()
        )
        assert "waiting" not in ended.stderr

    def test_a_run_that_began_again_is_not_interrupted(
        self, store: Store, holder: subprocess.Popen[str]
    ) -> None:
        """Its new process has not stored its phase yet; no command for a third one is given."""
        assert holder.poll() is None
        put_status(store, 3600, phase="interrupted")
        assert state(store).state == "silent"
        assert state(store).resume_command is None

    def test_a_container_goes_on_by_itself(self, store: Store) -> None:
        """Its supervisor may start the run again: no command to do so is given."""
        put_status(store, 1, phase="interrupted")
        release(store)
        store.put(f"{RUN}/boots.json", seal({"boots": 1}))
        assert (state(store).state, state(store).resume_command) == ("interrupted", None)

    def test_epochs_of_a_finished_run(self, store: Store) -> None:
        """Those of the whole run, as its spec says."""
        put_status(store, 1, phase="succeeded")
        Document(store, f"{RUN}/result.json").write({"reason": "succeeded", "exit_code": 0})
        found = state(store)
        assert (found.state, found.epoch, found.epochs) == ("finished", 3, 10)


class TestRented:
    @pytest.fixture(autouse=True)
    def record(self, store: Store) -> None:
        """A run with one pod."""
        pod = {"number": 1, "pod_name": "evengrad-jade-r1-1", "gpu": "L4", "cloud": "SECURE"}
        record = {
            **{"name": "jade", "run_id": "r1", "store": store.url, "spec_hash": "", "image": "i"},
            **{"deadline": NOW, "attempts": [{**pod, "pod": "p1", "intended": NOW}]},
        }
        body = json.loads(PodsRecord.model_validate(record).model_dump_json())
        Document(store, f"{RUN}/pods.json").write(body)

    def test_an_interrupted_pod_may_go_on(self, store: Store) -> None:
        """RunPod starts its container again; where no pod is left the run is lost."""
        put_status(store, 3600, phase="interrupted")
        release(store)
        found = RunRef(name="jade", run_id="r1", store=store.url)
        unasked = read_state(found, NOW, None)
        assert (unasked.state, unasked.resume_command) == ("interrupted", None)
        assert state(store).state == "lost"
        assert state(store).resume_command == "python -m deploy.submit --resume r1"

    def test_a_control_is_named(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        """Its end is not taken for the job's."""
        end = {"reason": "succeeded", "exit_code": 0}
        document = Document(store, f"{RUN}/result.json")
        document.write(end)
        found = RunRef(name="jade", run_id="r1", store=store.url)
        assert not read_state(found, NOW, None).control
        document.write(end | {"control": True})
        state = read_state(found, NOW, None)
        assert state.control
        print_states([state])
        assert "a control, whose targets are permuted" in capsys.readouterr().out

    @pytest.mark.parametrize("pods", [None, []], ids=["no key", "no pod"])
    def test_a_finished_run_costs_no_more(self, store: Store, pods: list[Pod] | None) -> None:
        """Its pod ended itself, and nobody was there to record when: it counts up to its end."""
        document = Document(store, f"{RUN}/pods.json")
        body = document.read()
        assert body is not None
        begun = NOW - timedelta(hours=3)
        body["attempts"][0] |= {"cost": 2.0, "created": begun.isoformat()}
        document.write(body)
        put_status(store, 3600, phase="succeeded")
        Document(store, f"{RUN}/result.json").write({"reason": "succeeded", "exit_code": 0})
        found = RunRef(name="jade", run_id="r1", store=store.url)
        assert read_state(found, NOW, pods).spent_usd == pytest.approx(4.0)
        left = Pod(id="p1", name="evengrad-jade-r1-1", status="RUNNING")
        assert read_state(found, NOW, [left]).spent_usd == pytest.approx(6.0)

    def test_a_failure(self, store: Store) -> None:
        """Goes on by a new submission."""
        put_status(store, 3600, phase="failed", exit_code=1)
        assert (state(store).state, state(store).exit_code) == ("failed", JOB_FAILED)
        assert state(store).resume_command == "python -m deploy.submit --resume r1"


@pytest.mark.parametrize("width", [30, 60, 80, 100, 160])
@pytest.mark.parametrize("count", [1, 3])
def test_the_table_fits_and_cuts_no_number(
    monkeypatch: pytest.MonkeyPatch, width: int, count: int
) -> None:
    """Of several runs whole columns give way; of a single one each column gets a line."""
    losses = {"type": 0.9113, "pointers": 0.003548, "binary": 0.2069, "countdown": None}
    state = RunState(
        run="smoke/20261123-063845-4381", store="runs", state="training", epoch=6, epochs=10,
        eta_seconds=93.0, losses=losses, gpu="NVIDIA GeForce RTX 4090", cost_per_hour=0.3456,
        spent_usd=1.2345, age_seconds=4000.0, exit_code=NOT_FINISHED,
    )  # fmt: skip
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setitem(os.environ, "COLUMNS", str(width))
    monkeypatch.setattr("deploy.runs.table.WIDE_PAGE", width)
    print_states([state] * count)
    text = screen.getvalue()
    assert max(cell_len(Text(line).plain) for line in text.splitlines()) <= width
    words = text.split()
    assert words.count("training") == count
    if count == 1:
        assert {"6/10", "1m33s", "0.3456", "1.23", "0.911", "0.00355", "nan", "1h06m"} <= set(words)
    elif width == 30:
        assert "hidden columns: EPOCH, REASON, ETA," in " ".join(words)
    elif width == 160:
        assert "hidden columns" not in text
    assert "…" not in text


def test_diff_formats_numbers_as_the_screen_does(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gates in their unit, steps with a comma."""
    spec = Path(__file__).parents[2] / "docker" / "smoke.json"
    store.put(f"{RUN}/spec.json", spec.read_bytes())
    gates = [
        {"gate": "a drops > 20%", "passed": True, "measured": 0.6763, "unit": "share"},
        {"gate": "gradient of a / b", "passed": False, "unit": "ratio"},
    ]
    result = {"reason": "gates_failed", "epochs": 10, "steps": 1260, "seconds": 2.12}
    Document(store, f"{RUN}/result.json").write({**result, "exit_code": 6, "gates": gates})
    diff(f"{store.url}/{RUN}", str(spec))
    text = capsys.readouterr().out
    assert "passed, 67.6%" in text
    assert "failed, -" in text
    assert "1,260" in text
