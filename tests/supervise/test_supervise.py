"""What a container guarantees, whatever its trainer does: real processes, real signals."""

from __future__ import annotations

import json
import math
import os
import signal
import tempfile
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from job.record.document import Document
from job.record.history import read_document, read_history
from job.record.run_index import Kept, RunIndex, RunIndexStore
from job.run.liveness import FRESH, Liveness, healthy, read, write
from job.spec.read import read_spec
from job.store import StoreError, Unavailable
from job.store.directory import DirectoryStore
from job.supervise.admit import NotAdmitted, admit, count_boot
from job.supervise.conclude import conclude
from job.supervise.trainer_process import Progress
from tests.support.faulty_proxy import Fault, Proxy, Request
from tests.support.hold import handles
from tests.support.runs import SPEC, Run, Undisturbed, assert_undisturbed
from tests.support.supervised import CLOCKED, Container, alive, ended, hold, plant
from tests.support.tiny_job import HUGE, SMALL, STEPS
from tests.support.tiny_job import write as write_spec
from tests.support.warm_process import Nursery, until

KEY = "small/r"
HELD_STEP = 20
"""At which a trainer is held."""
RESOURCES = {"gpu": ["any"], "max_price_per_hour": 1, "max_hours": 1}
LONG = SPEC | {"train.epochs": 100_000}
OUT_OF_MEMORY = 'import torch; raise torch.OutOfMemoryError("CUDA out of memory. Tried")'
SLOW = pytest.mark.slow
SUICIDE = "os.kill(os.getpid(), 9)"
HOUR = 3600.0


def limits(**more: float) -> dict[str, Any]:
    """Edits of the spec: a pod to rent, with limits."""
    return {"resources": RESOURCES | more}


def result(folder: Path) -> dict[str, Any]:
    """The run's `result.json`."""
    return document(folder, "result.json")


def document(folder: Path, name: str) -> dict[str, Any]:
    """A document of the run in the folder's store."""
    read = read_document(DirectoryStore(folder / "store"), KEY, name)
    assert read is not None
    return read


# --- the trainer's own ends -----------------------------------------------------------------------


@pytest.mark.slow
def test_passing_run_and_a_second_start(tmp_path: Path) -> None:
    """The trainer's exit code and events are the container's; started again it trains nothing."""
    spec, store = write_spec(tmp_path), str(tmp_path / "store")
    first = ended(tmp_path / "1", spec, store)
    assert first.process.returncode == 0, first.err
    assert [e["seq"] for e in first.events] == list(range(1, len(first.events) + 1))
    assert result(tmp_path)["reason"] == "succeeded"
    last = read(first.liveness_file)
    assert last is not None
    assert (last.phase, last.step) == ("succeeded", SMALL["train"]["epochs"] * STEPS)
    assert last.evaluated > 0, "an evaluation is progress for the supervisor, batch by batch"
    second = ended(tmp_path / "2", spec, store)
    assert second.process.returncode == 0
    assert second.out == ""
    assert second.err == "supervisor: exit 0: run r has finished; nothing is trained\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edits", "code", "expected"),
    [
        ({"tasks": [{**SMALL["tasks"][0], "outputs": 3, "level": "step"}]}, 2, "$.tasks[0]"),
        ({"tasks": [*SMALL["tasks"], HUGE], "model.init.heads": "default"}, 1, "task huge is inf"),
        ({"gates": [{"task": "pair", "skill": 0.99, "by_epoch": 3}]}, 6, ""),
    ],
    ids=["spec that does not fit its data", "loss that is not finite", "gate that fails"],
)
def test_what_a_restart_cannot_mend(
    tmp_path: Path, edits: dict[str, Any], code: int, expected: str
) -> None:
    """An invalid spec, a NaN and failed gates end the container with the trainer's code, without a
    restart; the last line of its log says why."""
    starts = plant(tmp_path / "1", "pass", 0)
    container = ended(tmp_path / "1", write_spec(tmp_path, edits), str(tmp_path / "store"))
    assert container.process.returncode == code, container.err
    assert expected in container.err + container.out
    assert "restart" not in container.err
    status = document(tmp_path, "status.json")
    assert status["exit_code"] == code
    assert expected in (status["error"] or "")
    assert f"supervisor: exit {code}: " in container.err.splitlines()[-1]
    assert code == 2 or starts.read_text() == "."


def test_a_killed_trainer_is_started_again(
    tmp_path: Path, nursery: Nursery, undisturbed: Undisturbed
) -> None:
    """Killed in mid-run, it goes on from its checkpoint and ends as if it had not been."""
    run = Run(nursery, write_spec(tmp_path, SPEC), str(tmp_path / "store"))
    held = hold(tmp_path / "1", HELD_STEP)
    with alive(tmp_path / "1", run.spec, run.url) as container:
        held.until_reached()
        os.kill(container.trainer(), signal.SIGKILL)
        held.release()
        assert container.wait() == 0, container.err
    assert "was ended by SIGKILL; restart 1 of 3" in container.err
    assert sum(e["event"] == "run.started" for e in container.events) == 2
    assert_undisturbed(run, undisturbed)


@pytest.mark.parametrize(
    ("deed", "reason"),
    [(SUICIDE, "failed"), (OUT_OF_MEMORY, "oom")],
    ids=["killed", "oom"],
)
@pytest.mark.slow
def test_restarts_are_bounded(tmp_path: Path, deed: str, reason: str) -> None:
    """After three restarts the run has failed, and result, event and status say why."""
    starts = plant(tmp_path / "1", deed, 99)
    container = ended(tmp_path / "1", write_spec(tmp_path), str(tmp_path / "store"))
    assert (container.process.returncode, starts.read_text()) == (1, "....")
    found = result(tmp_path)
    assert (found["reason"], found["exit_code"]) == (reason, 1)
    assert found["error"].startswith("the trainer ")
    last = read_history(DirectoryStore(tmp_path / "store"), KEY)[-1]
    assert last["event"] == "run.finished"
    status = document(tmp_path, "status.json")
    assert (last["reason"], status["phase"]) == (reason, reason)
    assert status["error"] == found["error"]
    ended_at = datetime.fromisoformat(status["heartbeat"])
    assert ended_at >= datetime.fromisoformat(last["ts"]).replace(microsecond=0)


@pytest.mark.slow
def test_memory_that_ran_out_once(tmp_path: Path) -> None:
    """An OOM is not the run's end while there is a supervisor: the next start may have more."""
    starts = plant(tmp_path / "1", OUT_OF_MEMORY, 1)
    container = ended(tmp_path / "1", write_spec(tmp_path), str(tmp_path / "store"))
    assert (container.process.returncode, starts.read_text()) == (0, "..")
    assert "lost its device or ran out of its memory" in container.err
    assert result(tmp_path)["reason"] == "succeeded"


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_resumable_run(
    tmp_path: Path, nursery: Nursery, undisturbed: Undisturbed, number: int
) -> None:
    """Exit code 75; the next container goes on and ends as if nothing had been."""
    run = Run(nursery, write_spec(tmp_path, SPEC), str(tmp_path / "store"))
    held = hold(tmp_path / "1", HELD_STEP)
    with alive(tmp_path / "1", run.spec, run.url, EVENGRAD_GRACE="600") as container:
        held.until_reached()
        trainer = container.trainer()
        container.process.send_signal(number)
        until(lambda: not handles(trainer, signal.Signals(number)), say=lambda: container.err)
        held.release()
        assert container.wait() == 75, container.err
    assert container.err.splitlines()[-1].startswith("supervisor: exit 75: interrupted by a signal")
    assert ended(tmp_path / "2", run.spec, run.url).process.returncode == 0
    assert_undisturbed(run, undisturbed)


@pytest.mark.slow
def test_a_trainer_deaf_to_signals_is_killed(tmp_path: Path) -> None:
    """A frozen trainer does not keep the container from ending: 75 all the same."""
    spec = write_spec(tmp_path, LONG)
    with alive(tmp_path / "1", spec, str(tmp_path / "store"), EVENGRAD_GRACE="1") as container:
        container.until_step(3)
        os.kill(container.trainer(), signal.SIGSTOP)
        container.process.send_signal(signal.SIGTERM)
        assert container.wait() == 75, container.err


# --- limits ---------------------------------------------------------------------------------------


def until_saved(folder: Path, container: Container) -> None:
    """Wait until the run has a checkpoint."""
    store = DirectoryStore(folder / "store")

    def saved() -> bool:
        with suppress(StoreError):
            index = RunIndexStore(store, KEY, fenced=False).read()
            return index is not None and bool(index.checkpoints)
        return False

    until(saved, say=lambda: container.err)


def test_deadline(tmp_path: Path) -> None:
    """When its hours are over the run ends, its state saved, for good."""
    spec = write_spec(tmp_path, LONG | limits(max_hours=2, stall_minutes=600))
    with alive(tmp_path / "1", spec, str(tmp_path / "store"), module=CLOCKED) as container:
        until_saved(tmp_path, container)
        container.pass_time(1.9 * HOUR)
        before = len(container.out)
        until(lambda: len(container.out) > before, say=lambda: container.err)
        assert container.process.poll() is None
        container.pass_time(0.2 * HOUR)
        assert container.wait() == 1, container.err
    found = result(tmp_path)
    assert found["reason"] == "deadline_exceeded"
    assert "resources.max_hours" in found["error"]
    assert found["steps"] > 0
    assert found["checkpoint"] is not None
    again = ended(tmp_path / "2", spec, str(tmp_path / "store"))
    assert (again.process.returncode, again.out) == (1, "")


def pass_until_ended(container: Container) -> None:
    """Let minutes pass until the container has ended: how many depends on when it looks."""

    def passed() -> bool:
        container.pass_time(300)
        return container.process.poll() is not None

    until(passed, say=lambda: container.err, pause=0.5)


@pytest.mark.slow
def test_stall(tmp_path: Path) -> None:
    """A trainer that finishes no step is killed; what it had saved is kept, with the reason."""
    spec = write_spec(tmp_path, LONG | limits(stall_minutes=15))
    store = str(tmp_path / "store")
    with alive(tmp_path / "1", spec, store, module=CLOCKED, EVENGRAD_GRACE="1") as container:
        until_saved(tmp_path, container)
        until(lambda: '"step": 0' not in container.liveness_file.read_text())
        trainer = container.trainer()
        os.kill(trainer, signal.SIGSTOP)
        pass_until_ended(container)
        assert container.wait() == 1, container.err
    assert not Path(f"/proc/{trainer}").exists()
    found = result(tmp_path)
    assert found["reason"] == "stalled"
    assert found["checkpoint"] is not None


class TestProgress:
    """What counts as a trainer's progress, by a clock that does not run by itself."""

    @pytest.fixture(autouse=True)
    def progress(self, tmp_path: Path) -> Progress:
        """Of a trainer whose liveness file the test writes."""
        self.now = 0.0
        return Progress(tmp_path / "liveness.json", lambda: self.now)

    def look(self, progress: Progress, *content: Any) -> None:
        """Write the liveness file, then look at it."""
        write(progress.liveness_file, Liveness(*content))
        progress.look()

    def test_steps_and_batches(self, progress: Progress) -> None:
        """A step and an evaluated batch are progress; the same step again is none."""
        for at, content in enumerate([("training", 1), ("training", 2), ("training", 2, 1)]):
            self.now = 100.0 * at
            self.look(progress, *content)
            assert progress.seconds_without == 0
        self.now += 50.0
        self.look(progress, "training", 2, 1)
        assert progress.seconds_without == 50

    def test_before_the_first_step(self, progress: Progress) -> None:
        """While data is loaded no step is finished; the spec leaves more time for that."""
        self.look(progress, "starting", 0)
        assert not progress.has_stepped
        self.look(progress, "training", 1)
        assert progress.has_stepped

    def test_after_the_last_step(self, progress: Progress) -> None:
        """When no step is to come, being alive is enough: to store the end may take long."""
        self.look(progress, "saving", 9)
        self.now = 100.0
        os.utime(progress.liveness_file, (1.0, 1.0))  # written again, with the same content
        progress.look()
        assert progress.seconds_without == 0
        self.now = 130.0
        progress.look()
        assert progress.seconds_without == 30


@pytest.mark.slow
def test_crash_loop(tmp_path: Path) -> None:
    """A container that dies again and again before any progress is given up by the next one."""
    spec, store = write_spec(tmp_path, limits(max_boots=1)), str(tmp_path / "store")
    plant(tmp_path / "1", "time = __import__('time'); time.sleep(3600)", 99)
    with alive(tmp_path / "1", spec, store) as container:
        until(lambda: (tmp_path / "1/starts").exists(), say=lambda: container.err)
    second = ended(tmp_path / "2", spec, store)
    assert (second.process.returncode, second.events[0]["reason"]) == (1, "crash_loop")
    assert result(tmp_path)["reason"] == "crash_loop"
    assert (tmp_path / "store/small/r/report.html").is_file()


def test_boots_with_progress_do_not_count(tmp_path: Path) -> None:
    """The count of boots begins anew with every new checkpoint, and a damaged one at 1."""
    store = DirectoryStore(tmp_path)
    assert [count_boot(store, KEY) for _ in range(3)] == [1, 2, 3]
    kept = Kept(folder="checkpoints/7-1", step=7, manifest="")
    RunIndexStore(store, KEY, True).write(RunIndex(epoch=1, spec_hash="", checkpoints=[kept]))
    assert [count_boot(store, KEY) for _ in range(2)] == [1, 2]
    (tmp_path / KEY / "boots.json").write_text("{")
    assert count_boot(store, KEY) == 1


def test_boots_of_another_pod_do_not_count(tmp_path: Path) -> None:
    """Hosts that died are no crash loop: each pod has its own count."""
    store = DirectoryStore(tmp_path)
    boots = [count_boot(store, KEY, pod) for pod in ("a", "a", "b", "c", "c", "c", None)]
    assert boots == [1, 2, 1, 1, 2, 3, 1]


@pytest.mark.parametrize(
    "body",
    [{"schema": 1, "step": 0, "boots": 2}, {"schema": 1, "step": None, "boots": "x", "pod": "a"}],
    ids=["older", "odd"],
)
def test_boots_that_say_less(tmp_path: Path, body: dict[str, Any]) -> None:
    """A document of an older version, or one with odd content, is read: a pod begins at 1."""
    store = DirectoryStore(tmp_path)
    Document(store, f"{KEY}/boots.json", fenced=False).write(body)
    assert [count_boot(store, KEY, "a") for _ in range(2)] == [1, 2]


@pytest.mark.slow
def test_a_second_container_ends_no_living_run(tmp_path: Path) -> None:
    """Too many boots of a run that is alive elsewhere end the container that is one too many, and
    not the run."""
    edits = LONG | limits(max_boots=1) | {"checkpoint.every_steps": 10**6}
    edits |= {"checkpoint.every_epochs": 10**6, "train.epochs": 10**6}
    edits |= {"checkpoint.lease_seconds": 600}  # the second one sees at the first renewal: it lives
    spec, store = write_spec(tmp_path, edits), str(tmp_path / "store")
    with alive(tmp_path / "1", spec, store) as healthy:
        healthy.until_step(20)
        second = ended(tmp_path / "2", spec, store)
        assert second.process.returncode == 1
        assert "max_boots is exceeded" in second.err
        assert not (tmp_path / "store" / KEY / "result.json").exists()
        before = len(healthy.out)
        until(lambda: len(healthy.out) > before, say=lambda: healthy.err)
        assert healthy.process.poll() is None


@SLOW
def test_an_end_that_nobody_reads_is_stored(tmp_path: Path) -> None:
    """With a log that is full the deadline holds all the same, and the end is in the store."""
    spec = write_spec(tmp_path, LONG | limits(max_hours=2))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n" * 4096)
    os.set_blocking(writer, True)
    store = str(tmp_path / "store")
    with alive(
        tmp_path / "1", spec, store, out=writer, module=CLOCKED, EVENGRAD_GRACE="1"
    ) as container:
        os.close(writer)
        until(lambda: container.liveness_file.exists(), say=lambda: container.err)
        container.pass_time(2 * HOUR)
        assert container.wait() == 1, container.err
    os.close(reader)
    assert result(tmp_path)["reason"] == "deadline_exceeded"


@SLOW
def test_a_trainer_that_does_not_leave(tmp_path: Path) -> None:
    """One that hangs after its end is killed when it has not been alive for long enough; the end
    that it recorded stands."""
    plant(tmp_path / "1", "import atexit, time; atexit.register(time.sleep, 3600)", 99)
    spec = write_spec(tmp_path, limits(stall_minutes=15, max_hours=9))
    store = str(tmp_path / "store")
    with alive(tmp_path / "1", spec, store, module=CLOCKED, EVENGRAD_GRACE="1") as container:
        until(
            lambda: (tmp_path / "store" / KEY / "report.html").exists(), say=lambda: container.err
        )
        pass_until_ended(container)
        assert container.wait() == 0, container.err
    assert result(tmp_path)["reason"] == "succeeded"


@pytest.mark.slow
def test_a_wrong_spec_leaves_a_run_alone(tmp_path: Path) -> None:
    """Starts with another spec are refused, and leave boots and status of the run as they are."""
    store = str(tmp_path / "store")
    right = write_spec(tmp_path, LONG | limits(max_boots=1))
    with alive(tmp_path / "1", right, store) as container:
        container.until_step(20)
        container.process.send_signal(signal.SIGTERM)
        assert container.wait() == 75
    before = {p.name: p.read_bytes() for p in (tmp_path / "store" / KEY).glob("*.json")}
    wrong = write_spec(tmp_path, LONG | limits(max_boots=1) | {"seed": 7}, "wrong.json")
    for n in range(2):
        refused = ended(tmp_path / f"wrong-{n}", wrong, store)
        assert refused.process.returncode == 2
        assert "$.seed: found 7" in refused.err
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "store" / KEY).glob("*.json")}


@pytest.mark.slow
def test_memory_that_runs_out_before_the_first_step(tmp_path: Path) -> None:
    """The device may fail while the network is made: the next start may do better."""
    starts = plant(tmp_path / "1", OUT_OF_MEMORY, 1)
    planted = tmp_path / "1/sitecustomize.py"
    planted.write_text(planted.read_text().replace("Trainer.run", "Trainer.__init__"))
    container = ended(tmp_path / "1", write_spec(tmp_path), str(tmp_path / "store"))
    assert (container.process.returncode, starts.read_text()) == (0, ".."), container.err


class Once(DirectoryStore):
    """A directory that is out of reach once, for the first write of one document."""

    def __init__(self, root: Path, document: str) -> None:
        super().__init__(root)
        self.document: str | None = document

    def _fail(self, key: str) -> None:
        if self.document is not None and self.document in key:
            self.document = None
            raise Unavailable("once")

    def put(self, key: str, data: Any) -> str:
        self._fail(key)
        return super().put(key, data)

    def put_if_match(self, key: str, data: Any, etag: str) -> str:
        self._fail(key)
        return super().put_if_match(key, data, etag)


@pytest.mark.parametrize("document", ["/events/", "latest.json", "result.json", "status.json"])
def test_an_outage_at_the_end(
    tmp_path: Path, document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever write fails once, the end is printed once, and stands in result and status."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spec = read_spec(write_spec(tmp_path))
    store = Once(tmp_path / "store", document)
    lines: list[str] = []
    code = conclude(
        *(store, spec, "r", "stalled", 1, "it hung"), until=math.inf, print_line=lines.append
    )
    assert (code, len(lines)) == (1, 1)
    assert [e["event"] for e in read_history(store, KEY)] == ["run.finished"]
    for name, field in (("result.json", "reason"), ("status.json", "phase")):
        stored = read_document(store, KEY, name)
        assert stored is not None
        assert stored[field] == "stalled"


# --- before anything is trained -------------------------------------------------------------------


def test_a_secret_that_was_not_filled_in(tmp_path: Path) -> None:
    """The variable is named, its value is not shown, and nothing is written."""
    container = ended(
        tmp_path / "1",
        write_spec(tmp_path),
        str(tmp_path / "store"),
        AWS_SECRET_ACCESS_KEY="{{ RUNPOD_SECRET_bucket }}",
    )
    assert container.process.returncode == 1
    assert "AWS_SECRET_ACCESS_KEY: RunPod did not fill in the secret" in container.err
    assert "bucket" not in container.err
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_only_the_baked_spec_runs(tmp_path: Path) -> None:
    """A spec that is not the one of the image is refused, unless that is asked for."""
    spec, store = write_spec(tmp_path), str(tmp_path / "store")
    build = tmp_path / "build.json"
    build.write_text(json.dumps({"spec_sha256": "0" * 64}))
    refused = ended(tmp_path / "1", spec, store, EVENGRAD_BUILD=str(build))
    assert refused.process.returncode == 2
    assert "the image was built with 000000000000…" in refused.err
    assert refused.out == ""
    for content in ("", "[]", "{}", "{"):
        build.write_text(content)
        with pytest.raises(NotAdmitted, match="does not say which spec was baked") as damaged:
            admit({"EVENGRAD_BUILD": str(build)}, spec, store, "r")
        assert damaged.value.code == 2
    asked = ended(tmp_path / "2", spec, store, EVENGRAD_BUILD=str(build), EVENGRAD_ANY_SPEC="1")
    assert asked.process.returncode == 0


@pytest.mark.parametrize(
    ("settings", "code", "expected"),
    [
        ({"EVENGRAD_GRACE": "soon"}, 2, "EVENGRAD_GRACE: found 'soon'; must be seconds"),
        ({"RUN_ID": "No Name"}, 2, "RUN_ID: a run id is of a-z, 0-9 and -"),
        ({"EVENGRAD_STORE": "/proc/store"}, 1, "/proc/store"),
        ({"EVENGRAD_SPEC": "/nowhere.json"}, 2, "/nowhere.json"),
    ],
)
def test_what_cannot_start(
    tmp_path: Path, settings: dict[str, str], code: int, expected: str
) -> None:
    """The log names what is wrong; the exit code is that of its kind."""
    container = ended(tmp_path / "1", write_spec(tmp_path), str(tmp_path / "store"), **settings)
    assert (container.process.returncode, container.out) == (code, "")
    assert expected in container.err
    assert "Traceback" not in container.err


def test_a_store_that_forbids(tmp_path: Path, s3_url: str) -> None:
    """With credentials that the store refuses, the container ends and says why."""
    container = ended(
        tmp_path / "1", write_spec(tmp_path), s3_url, AWS_SECRET_ACCESS_KEY="not-the-one"
    )
    assert (container.process.returncode, container.out) == (1, "")
    assert "403" in container.err
    assert "not-the-one" not in container.err


def test_a_signal_while_the_store_is_silent(tmp_path: Path, proxy: Proxy, s3_url: str) -> None:
    """A container that should end before it has begun does not wait for the store: 75."""
    asked: list[Request] = []

    def silent(request: Request) -> Fault:
        asked.append(request)
        return "hang"

    proxy.rule = silent
    with alive(tmp_path / "1", write_spec(tmp_path), s3_url) as container:
        until(lambda: bool(asked), say=lambda: container.err)
        container.process.send_signal(signal.SIGTERM)
        assert container.wait() == 75, container.err
    assert container.err.splitlines()[-1].endswith("interrupted before the trainer was started")


# --- the health check -----------------------------------------------------------------------------


def test_health_is_the_age_of_the_liveness_file(tmp_path: Path) -> None:
    """Healthy while the trainer's file is fresh; not before it is written, nor long after."""
    path = tmp_path / "liveness.json"
    assert not healthy(path, time.time())
    write(path, Liveness("training", 3))
    assert healthy(path, time.time())
    assert not healthy(path, time.time() + FRESH + 1)
