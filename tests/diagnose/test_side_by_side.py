"""Probes side by side: the same numbers as one after the other, and no process is left."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from job.data.dataset import Dataset, load
from job.diagnose import side_by_side
from job.diagnose.case import Watch
from job.diagnose.diagnose import Diagnosis, diagnose
from job.diagnose.probe import probe, probe_inputs
from job.diagnose.show import diagnosis_json
from job.diagnose.side_by_side import SideBySide, _loaded, digest, fitting
from job.spec import JobSpec
from job.spec.patch import Edit, edited
from job.spec.read import parse_spec, with_digests
from job.train.trainer import Trainer
from tests.support.command import ROOT, environment
from tests.support.network_problems import SOUND, OwnProblem
from tests.support.tiny_job import write
from tests.support.warm_process import until

CPU = torch.device("cpu")
SLOW = {"optimizer.lr": 1e-6, "train.epochs": 10}
"""A rate so low that a diagnosis tries higher ones."""
RATES = [(Edit(("optimizer", "lr"), lr),) for lr in (1e-5, 1e-4, 1e-3)]
COMMAND = """
from job.cli import diagnose
from job.cli.app import main
from job.diagnose import side_by_side
side_by_side.WORTH, diagnose.cores = 0.0, lambda: 2
main()
"""
"""`python -m job` on two cores, with workers that are worth it."""


class Small(NamedTuple):
    spec: JobSpec
    data: Dataset

    def side_by_side(self) -> SideBySide:
        torch.set_num_threads(1)
        return SideBySide(self.spec, self.data, 2, math.inf)

    def others(self) -> list[JobSpec]:
        return [edited(self.spec, edits) for edits in RATES]


def small(path: Path) -> Small:
    """A spec with its data."""
    spec = with_digests(parse_spec(path.read_text()), path.parent)
    return Small(spec, load(spec, path.parent))


@pytest.fixture
def tiny(tmp_path: Path) -> Small:
    return small(write(tmp_path, SLOW))


def plain(value: Any) -> Any:
    """What a value holds, without what depends on the clock."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, BaseModel):
        return plain(value.model_dump(exclude={"step_ms"}))
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    return plain(vars(value)) if hasattr(value, "__dict__") else value


def test_the_cores_decide() -> None:
    """A probe needs as many as it has threads, and must be worth a process."""
    torch.set_num_threads(1)
    assert fitting(3, CPU, 60.0) == 3
    assert fitting(3, CPU, 0.1) == 1
    assert fitting(3, torch.device("cuda"), 60.0) == 1
    torch.set_num_threads(2)
    try:
        assert [fitting(cores, CPU, 60.0) for cores in (1, 3, 4)] == [1, 1, 2]
    finally:
        torch.set_num_threads(1)


def test_a_single_probe_begins_nothing(tiny: Small) -> None:
    """Without two candidates, or without a second core, no process starts."""
    alone = SideBySide(tiny.spec, tiny.data, 1, math.inf)
    for beside, specs in ((tiny.side_by_side(), tiny.others()[:1]), (alone, tiny.others())):
        with beside:
            assert beside.begin(specs) == 1
            assert beside.take(specs[0]) is None
    assert multiprocessing.active_children() == []


def test_without_processes_nothing_begins(tiny: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can start, every probe is left to this process."""

    def refused(*_: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(side_by_side, "submit", refused)
    with tiny.side_by_side() as beside:
        assert beside.begin(tiny.others()) == 1
        assert beside.take(tiny.others()[0]) is None


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_probes_are_the_same(tmp_path: Path, own: bool) -> None:
    """Every number of each probe, with its data, also of a network of one's own."""
    path = OwnProblem(SOUND["normed"]).write(tmp_path) if own else write(tmp_path, SLOW)
    of = small(path)
    with of.side_by_side() as beside:
        assert beside.begin(of.others()) == 2
        found = [beside.take(spec) for spec in of.others()]
    assert multiprocessing.active_children() == []
    for spec, there in zip(of.others(), found, strict=True):
        assert there is not None
        assert there.spec == probe_inputs(spec, of.data)[0]
        assert repr(plain(there)) == repr(plain(probe(Trainer(*probe_inputs(spec, of.data)))))


def test_other_data_is_not_probed(tmp_path: Path) -> None:
    """A file that changes during a diagnosis changes no probe: a worker tells that it has."""
    of = small(write(tmp_path, SLOW))
    source = pickle.dumps(of.spec), tmp_path, torch.get_num_threads(), digest(of.data)
    assert len(_loaded(*source).train) == len(of.data.train)
    _loaded.cache_clear()
    stored = dict(np.load(tmp_path / "small.npz"))
    np.savez(tmp_path / "small.npz", **stored | {"level": stored["level"][::-1]})
    with pytest.raises(ValueError, match="changed"):
        _loaded(*source)


@pytest.mark.slow
def test_a_probe_of_other_data_is_left_to_this_process(tiny: Small) -> None:
    """Its numbers would be of another problem."""
    stored = dict(np.load(tiny.data.folder / "small.npz"))
    with tiny.side_by_side() as beside:
        np.savez(tiny.data.folder / "small.npz", **stored | {"level": stored["level"][::-1]})
        assert beside.begin(tiny.others()) == 2
        assert [beside.take(spec) for spec in tiny.others()] == [None] * len(RATES)


class Seen(Watch):
    """Keeps what was tried; kills a worker when the first of several probes is waited for."""

    def __init__(self, kill: bool = False) -> None:
        self.tried: list[str] = []
        self.kill = kill

    def trying(self, what: str) -> None:
        self.tried.append(what)
        if self.kill and "side by side" in what:
            self.kill = False
            worker, *_ = multiprocessing.active_children()
            worker.kill()


def result(found: Diagnosis, of: Small) -> str:
    """All that a diagnosis says, with the numbers of its probes."""
    record = diagnosis_json(found, json.loads(of.spec.canonical()))
    return repr((record, found.probes, [plain(p) for p in (found.before, found.after)]))


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_a_diagnosis_is_the_same(tiny: Small, kill: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings, edits, numbers and probes in the same order, even if a worker is killed."""
    monkeypatch.setattr(side_by_side, "WORTH", 0.0)
    alone, together = Seen(), Seen(kill)
    first = diagnose(*tiny, watch=alone)
    second = diagnose(*tiny, watch=together, cores=2)
    assert result(first, tiny) == result(second, tiny)
    beside = [what for what in together.tried if what.startswith("2 side by side: ")]
    assert len(beside) > 1
    assert [what.removeprefix("2 side by side: ") for what in together.tried] == alone.tried
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("at_work", [False, True])
@pytest.mark.parametrize("of_terminal", [False, True])
def test_an_interrupt_leaves_nobody(tmp_path: Path, of_terminal: bool, at_work: bool) -> None:
    """Ctrl-C in a terminal, or a signal to the command alone, while workers start or train: the
    command ends with what it has found, and with no traceback."""
    path = write(tmp_path, SLOW | {"model.hidden": 256, "train.epochs": 100})
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "diagnose", str(path)],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def ready() -> bool:
        assert process.poll() is None, process.communicate()
        busy = workers_of(process.pid)
        return len(busy) == 2 and (not at_work or set(busy.values()) == {1000})

    with process:
        try:
            until(ready)
            started = workers_of(process.pid)
            (os.killpg if of_terminal else os.kill)(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode in (7, 75)
    assert err == ""
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def workers_of(pid: int) -> dict[int, int]:
    """By pid, how readily the kernel ends each worker of a process: more so once it has work."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        folder = Path(f"/proc/{child}")
        if "spawn_main" in (folder / "cmdline").read_text():
            found[int(child)] = int((folder / "oom_score_adj").read_text())
    return found
