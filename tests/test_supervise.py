"""What a container sees to, whatever its trainer does: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from job.boot import count_boot
from job.conclude import conclude
from job.head import Head, HeadDocument, Kept
from job.heartbeat import FRESH, Beat, healthy, write
from job.history import read_document, read_history
from job.read_spec import read_spec
from job.store import Unavailable
from job.store_directory import DirectoryStore
from tests.nursery import Nursery, until
from tests.proxy import Proxy
from tests.runs import SPEC, Run, Undisturbed, assert_undisturbed
from tests.small import HUGE, SMALL
from tests.small import write as write_spec
from tests.supervised import alive, ended, plant

KEY = "small/r"
RESOURCES = {"gpu": ["any"], "max_price_per_hour": 1, "max_hours": 1}
LONG = SPEC | {"train.epochs": 100_000}
OUT_OF_MEMORY = 'import torch; raise torch.OutOfMemoryError("CUDA out of memory. Tried")'
SLOW = pytest.mark.slow
SUICIDE = "os.kill(os.getpid(), 9)"


def limits(**more: float) -> dict[str, Any]:
    """Edits of the spec: what to rent, with limits."""
    return {"resources": RESOURCES | more}


def result(folder: Path) -> dict[str, Any]:
    """What the run's `result.json` says."""
    found = read_document(DirectoryStore(folder / "store"), KEY, "result.json")
    assert found is not None
    return found


# --- the trainer's own ends -----------------------------------------------------------------------


def test_passing_run_and_a_second_start(tmp_path: Path) -> None:
    """The trainer's exit code and events are the container's; started again it trains nothing."""
    spec, store = write_spec(tmp_path), str(tmp_path / "store")
    first = ended(tmp_path / "1", spec, store)
    assert first.process.returncode == 0, first.err
    assert [e["seq"] for e in first.events] == list(range(1, len(first.events) + 1))
    assert result(tmp_path)["reason"] == "succeeded"
    second = ended(tmp_path / "2", spec, store)
    assert second.process.returncode == 0
    assert second.out == ""
    assert second.err == "supervisor: exit 0: run r has finished; nothing is trained\n"


@pytest.mark.parametrize(
    ("edits", "code", "said"),
    [
        ({"tasks": [{**SMALL["tasks"][0], "outputs": 3, "level": "step"}]}, 2, "$.tasks[0]"),
        ({"tasks": [*SMALL["tasks"], HUGE], "model.init.heads": "default"}, 1, "task huge is inf"),
        ({"gates": [{"task": "pair", "skill": 0.99, "by_epoch": 3}]}, 6, ""),
    ],
    ids=["spec that does not fit its data", "loss that is not finite", "gate that fails"],
)
def test_what_a_restart_cannot_mend(
    tmp_path: Path, edits: dict[str, Any], code: int, said: str
) -> None:
    """An invalid spec, a NaN and failed gates end the container with the trainer's code at once."""
    starts = plant(tmp_path / "1", "pass", 0)
    life = ended(tmp_path / "1", write_spec(tmp_path, edits), str(tmp_path / "store"))
    assert life.process.returncode == code, life.err
    assert said in life.err + life.out
    assert "restart" not in life.err
    status = read_document(DirectoryStore(tmp_path / "store"), KEY, "status.json")
    assert status is not None
    assert status["exit_code"] == code
    assert said in (status["error"] or "")
    assert code == 2 or starts.read_text() == "."


def test_a_killed_trainer_is_started_again(
    tmp_path: Path, nursery: Nursery, undisturbed: Undisturbed
) -> None:
    """Killed in mid-run, it goes on from its checkpoint and ends as if it had not been."""
    run = Run(nursery, write_spec(tmp_path, SPEC), str(tmp_path / "store"))
    with alive(tmp_path / "1", run.spec, run.url) as life:
        life.until_step(20)
        os.kill(life.trainer(), signal.SIGKILL)
        assert life.wait() == 0, life.err
    assert "was ended by SIGKILL; restart 1 of 3" in life.err
    assert sum(e["event"] == "run.started" for e in life.events) == 2
    assert_undisturbed(run, undisturbed)


@pytest.mark.parametrize(
    ("deed", "reason"),
    [(SUICIDE, "failed"), pytest.param(OUT_OF_MEMORY, "oom", marks=SLOW)],
    ids=["killed", "oom"],
)
def test_restarts_are_bounded(tmp_path: Path, deed: str, reason: str) -> None:
    """After three restarts the run has failed, and result, event and status say why."""
    starts = plant(tmp_path / "1", deed, 99)
    life = ended(tmp_path / "1", write_spec(tmp_path), str(tmp_path / "store"))
    assert (life.process.returncode, starts.read_text()) == (1, "....")
    found = result(tmp_path)
    assert (found["reason"], found["exit_code"]) == (reason, 1)
    assert found["error"].startswith("the trainer ")
    store = DirectoryStore(tmp_path / "store")
    last = read_history(store, KEY)[-1]
    assert last["event"] == "run.finished"
    status = read_document(store, KEY, "status.json")
    assert status is not None
    assert (last["reason"], status["phase"]) == (reason, reason)


def test_memory_that_ran_out_once(tmp_path: Path) -> None:
    """An OOM is not the run's end while there is a supervisor: the next start may have more."""
    starts = plant(tmp_path / "1", OUT_OF_MEMORY, 1)
    life = ended(tmp_path / "1", write_spec(tmp_path), str(tmp_path / "store"))
    assert (life.process.returncode, starts.read_text()) == (0, "..")
    assert "lost its device or ran out of its memory" in life.err
    assert result(tmp_path)["reason"] == "succeeded"


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=SLOW)])
def test_a_signal_leaves_a_resumable_run(
    tmp_path: Path, nursery: Nursery, undisturbed: Undisturbed, number: int
) -> None:
    """Exit code 75 within 10 s; the next container goes on and ends as if nothing had been."""
    run = Run(nursery, write_spec(tmp_path, SPEC), str(tmp_path / "store"))
    with alive(tmp_path / "1", run.spec, run.url) as life:
        life.until_step(20)
        begun = time.monotonic()
        life.process.send_signal(number)
        assert life.wait() == 75, life.err
        assert time.monotonic() - begun < 10
    assert ended(tmp_path / "2", run.spec, run.url).process.returncode == 0
    assert_undisturbed(run, undisturbed)


def test_a_trainer_deaf_to_signals_is_killed(tmp_path: Path) -> None:
    """A frozen trainer does not keep the container from ending: 75 all the same."""
    spec = write_spec(tmp_path, LONG)
    with alive(tmp_path / "1", spec, str(tmp_path / "store"), EVENGRAD_GRACE="1") as life:
        life.until_step(3)
        os.kill(life.trainer(), signal.SIGSTOP)
        life.process.send_signal(signal.SIGTERM)
        assert life.wait(20) == 75, life.err


# --- limits ---------------------------------------------------------------------------------------


def test_deadline(tmp_path: Path) -> None:
    """When its hours are over the run ends, its state saved, for good."""
    spec = write_spec(tmp_path, LONG | limits(max_hours=8 / 3600))
    begun = time.monotonic()
    life = ended(tmp_path / "1", spec, str(tmp_path / "store"))
    assert life.process.returncode == 1
    assert 8 < time.monotonic() - begun < 30
    found = result(tmp_path)
    assert found["reason"] == "deadline_exceeded"
    assert "resources.max_hours" in found["error"]
    assert found["steps"] > 0
    assert found["checkpoint"] is not None
    again = ended(tmp_path / "2", spec, str(tmp_path / "store"))
    assert (again.process.returncode, again.out) == (1, "")


@pytest.mark.slow
def test_stall(tmp_path: Path) -> None:
    """A trainer that finishes no step is killed; what it had saved is kept, the reason told."""
    spec = write_spec(tmp_path, LONG | limits(stall_minutes=10 / 60))
    with alive(tmp_path / "1", spec, str(tmp_path / "store"), EVENGRAD_GRACE="1") as life:
        life.until_step(50)
        until(lambda: '"step": 0' not in life.heartbeat.read_text())
        trainer = life.trainer()
        os.kill(trainer, signal.SIGSTOP)
        assert life.wait() == 1, life.err
    assert not Path(f"/proc/{trainer}").exists()
    found = result(tmp_path)
    assert found["reason"] == "stalled"
    assert found["checkpoint"] is not None


@pytest.mark.slow
def test_a_working_trainer_does_not_stall(tmp_path: Path) -> None:
    """Only steps count: a run longer than the stall limit goes on while it finishes steps."""
    spec = write_spec(tmp_path, LONG | limits(stall_minutes=10 / 60, max_hours=20 / 3600))
    ended(tmp_path / "1", spec, str(tmp_path / "store"))
    assert result(tmp_path)["reason"] == "deadline_exceeded"


def test_crash_loop(tmp_path: Path) -> None:
    """A container that dies again and again before it gets on is given up by the next one."""
    spec, store = write_spec(tmp_path, limits(max_boots=1)), str(tmp_path / "store")
    plant(tmp_path / "1", "time = __import__('time'); time.sleep(60)", 99)
    with alive(tmp_path / "1", spec, store) as life:
        until(lambda: (tmp_path / "1/starts").exists(), say=lambda: life.err)
    second = ended(tmp_path / "2", spec, store)
    assert (second.process.returncode, second.events[0]["reason"]) == (1, "crash_loop")
    assert result(tmp_path)["reason"] == "crash_loop"
    assert (tmp_path / "store/small/r/report.html").is_file()


def test_boots_with_progress_do_not_count(tmp_path: Path) -> None:
    """The count of boots begins anew with every new checkpoint, and a damaged one at 1."""
    store = DirectoryStore(tmp_path)
    assert [count_boot(store, KEY) for _ in range(3)] == [1, 2, 3]
    kept = Kept(folder="checkpoints/7-1", step=7, manifest="")
    HeadDocument(store, KEY, True).write(Head(epoch=1, spec_hash="", checkpoints=[kept]))
    assert [count_boot(store, KEY) for _ in range(2)] == [1, 2]
    (tmp_path / KEY / "boots.json").write_text("{")
    assert count_boot(store, KEY) == 1


def test_a_second_container_ends_no_living_run(tmp_path: Path) -> None:
    """Too many boots of a run that lives elsewhere end the container that is one too many, and
    not the run."""
    edits = LONG | limits(max_boots=1) | {"checkpoint.every_steps": 10**6}
    edits |= {"checkpoint.every_epochs": 10**6, "train.epochs": 10**6}
    spec, store = write_spec(tmp_path, edits), str(tmp_path / "store")
    with alive(tmp_path / "1", spec, store) as healthy:
        healthy.until_step(20)
        second = ended(tmp_path / "2", spec, store)
        assert second.process.returncode == 1
        assert "max_boots is exceeded" in second.err
        assert not (tmp_path / "store" / KEY / "result.json").exists()
        told = len(healthy.out)
        until(lambda: len(healthy.out) > told, say=lambda: healthy.err)
        assert healthy.process.poll() is None


@pytest.mark.slow
def test_an_end_that_nobody_reads_is_stored(tmp_path: Path) -> None:
    """With a log that is full the deadline holds all the same, and the end is in the store."""
    spec = write_spec(tmp_path, LONG | limits(max_hours=8 / 3600))
    reader, writer = os.pipe()
    with alive(tmp_path / "1", spec, str(tmp_path / "store"), out=writer) as life:
        os.close(writer)
        assert life.wait() == 1, life.err
    os.close(reader)
    assert result(tmp_path)["reason"] == "deadline_exceeded"


@pytest.mark.slow
def test_a_trainer_that_does_not_leave(tmp_path: Path) -> None:
    """One that hangs after its end is killed when its signs of life have ceased for long enough;
    the end that it recorded stands."""
    plant(tmp_path / "1", "import atexit, time; atexit.register(time.sleep, 600)", 99)
    spec = write_spec(tmp_path, limits(stall_minutes=6 / 60))
    life = ended(tmp_path / "1", spec, str(tmp_path / "store"))
    assert life.process.returncode == 0, life.err
    assert result(tmp_path)["reason"] == "succeeded"


SLOWNESS = """
import sys, time
if sys.orig_argv[1:4] == ["-m", "job", "run"]:
    import job.data, job.evaluate, job.train
    load, batches = job.data.load, job.evaluate.batches
    def slow_load(*arguments):
        time.sleep(6)
        return load(*arguments)
    def slow_batches(*arguments):
        for batch in batches(*arguments):
            time.sleep(0.8)
            yield batch
    job.data.load, job.evaluate.batches, job.evaluate.BATCH = slow_load, slow_batches, 8
"""


@pytest.mark.slow
def test_slow_is_not_stalled(tmp_path: Path) -> None:
    """Loading data for longer than the stall limit, and evaluating for longer, is no stall."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1/sitecustomize.py").write_text(SLOWNESS)
    edits = {"train.epochs": 1} | limits(stall_minutes=4 / 60)
    life = ended(tmp_path / "1", write_spec(tmp_path, edits), str(tmp_path / "store"))
    assert life.process.returncode == 0, life.err


def test_a_wrong_spec_leaves_a_run_alone(tmp_path: Path) -> None:
    """Starts with another spec are refused, and leave boots and status of the run as they are."""
    store = str(tmp_path / "store")
    right = write_spec(tmp_path, LONG | limits(max_boots=1))
    with alive(tmp_path / "1", right, store) as life:
        life.until_step(20)
        life.process.send_signal(signal.SIGTERM)
        assert life.wait() == 75
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
    planted.write_text(planted.read_text().replace("Training.run", "Training.__init__"))
    life = ended(tmp_path / "1", write_spec(tmp_path), str(tmp_path / "store"))
    assert (life.process.returncode, starts.read_text()) == (0, ".."), life.err


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
    """Whichever write fails once, the end is told once, and stands in result and status."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spec = read_spec(write_spec(tmp_path))
    store = Once(tmp_path / "store", document)
    lines: list[str] = []
    until_when = time.monotonic() + 60
    code = conclude(store, spec, "r", "stalled", 1, "it hung", until=until_when, tell=lines.append)
    assert (code, len(lines)) == (1, 1)
    assert [e["event"] for e in read_history(store, KEY)] == ["run.finished"]
    for name, field in (("result.json", "reason"), ("status.json", "phase")):
        found = read_document(store, KEY, name)
        assert found is not None
        assert found[field] == "stalled"


# --- before anything is trained -------------------------------------------------------------------


def test_a_secret_that_was_not_filled_in(tmp_path: Path) -> None:
    """The variable is named, its value is not told, and nothing is written."""
    life = ended(
        tmp_path / "1",
        write_spec(tmp_path),
        str(tmp_path / "store"),
        AWS_SECRET_ACCESS_KEY="{{ RUNPOD_SECRET_bucket }}",
    )
    assert life.process.returncode == 1
    assert "AWS_SECRET_ACCESS_KEY: RunPod did not fill in the secret" in life.err
    assert "bucket" not in life.err
    assert not (tmp_path / "store").exists()


def test_only_the_baked_spec_runs(tmp_path: Path) -> None:
    """A spec that is not the one of the image is refused, unless that is asked for."""
    spec, store = write_spec(tmp_path), str(tmp_path / "store")
    build = tmp_path / "build.json"
    build.write_text(json.dumps({"spec_sha256": "0" * 64}))
    refused = ended(tmp_path / "1", spec, store, EVENGRAD_BUILD=str(build))
    assert refused.process.returncode == 2
    assert "the image was built with 000000000000…" in refused.err
    assert refused.out == ""
    for n, content in enumerate(["", "[]", "{}", "{"]):
        build.write_text(content)
        damaged = ended(tmp_path / f"damaged-{n}", spec, store, EVENGRAD_BUILD=str(build))
        assert damaged.process.returncode == 2
        assert "does not say which spec was baked" in damaged.err
    asked = ended(tmp_path / "2", spec, store, EVENGRAD_BUILD=str(build), EVENGRAD_ANY_SPEC="1")
    assert asked.process.returncode == 0


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"EVENGRAD_GRACE": "soon"}, 2, "EVENGRAD_GRACE: found 'soon'; must be seconds"),
        ({"RUN_ID": "No Name"}, 2, "RUN_ID: a run id is of a-z, 0-9 and -"),
        ({"EVENGRAD_STORE": "/proc/store"}, 1, "/proc/store"),
        ({"EVENGRAD_SPEC": "/nowhere.json"}, 2, "/nowhere.json"),
    ],
)
def test_what_cannot_start(tmp_path: Path, settings: dict[str, str], code: int, said: str) -> None:
    """What is wrong is told at once, with the exit code of its kind."""
    life = ended(tmp_path / "1", write_spec(tmp_path), str(tmp_path / "store"), **settings)
    assert (life.process.returncode, life.out) == (code, "")
    assert said in life.err
    assert "Traceback" not in life.err


def test_a_store_that_forbids(tmp_path: Path, s3_url: str) -> None:
    """With credentials that the store refuses, the container ends at once and says so."""
    begun = time.monotonic()
    life = ended(tmp_path / "1", write_spec(tmp_path), s3_url, AWS_SECRET_ACCESS_KEY="not-the-one")
    assert (life.process.returncode, life.out) == (1, "")
    assert "403" in life.err
    assert "not-the-one" not in life.err
    assert time.monotonic() - begun < 20


def test_a_signal_while_the_store_is_silent(tmp_path: Path, proxy: Proxy, s3_url: str) -> None:
    """A container that is told to end before it has begun does not wait for the store: 75."""
    proxy.rule = lambda _: "hang"
    with alive(tmp_path / "1", write_spec(tmp_path), s3_url) as life:
        time.sleep(2)
        begun = time.monotonic()
        life.process.send_signal(signal.SIGTERM)
        assert life.wait() == 75, life.err
        assert time.monotonic() - begun < 5


# --- the health check -----------------------------------------------------------------------------


def test_health_is_the_age_of_the_heartbeat(tmp_path: Path) -> None:
    """Healthy while the trainer's sign of life is fresh; not before the first, nor long after."""
    path = tmp_path / "heartbeat.json"
    assert not healthy(path, time.time())
    write(path, Beat("training", 3))
    assert healthy(path, time.time())
    assert not healthy(path, time.time() + FRESH + 1)
