"""One trial in a process of its own: a run like any other, which reports its epochs."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

from job.background import die_with_parent
from job.errors import InputError
from job.events.log import Line
from job.exit_codes import INTERRUPTED
from job.search.objective import Skills
from job.spec import JobSpec


class EpochEnded(NamedTuple):
    """An epoch has ended; the process waits for True, if it is to end now, or False."""

    epoch: int
    skills: Skills
    """Of the validation split."""


class Said(NamedTuple):
    """A line for a person."""

    text: str


class Ended(NamedTuple):
    """How the process ends, its last message."""

    how: Literal["complete", "failed", "interrupted", "held", "store_failed"]
    why: str = ""
    """Of one that is not complete, in one line."""
    skills: Skills = {}
    errors: Skills = {}
    """Standard errors of the skills."""


@dataclass(frozen=True)
class Order:
    """What a process is to train."""

    spec: JobSpec
    run_id: str
    folder: Path
    """Of the spec's relative paths."""
    store: str
    """URL."""
    one_thread: bool


class _Reports:
    """The process's side of the pipe: a sink of the run's events; safe between threads."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self._sending = connection, threading.Lock()
        self.stop: Callable[[], object] = lambda: None
        """Asks the run to end; set when it begins."""
        self.end: Line = {}
        """The event run.finished, once it came."""

    def send(self, message: EpochEnded | Said | Ended) -> None:
        with self._sending:
            self.connection.send(message)

    def __call__(self, event: Line, _: str) -> None:
        if event["event"] == "epoch":
            skills = {name: task.get("val_skill") for name, task in event["tasks"].items()}
            self.send(EpochEnded(event["epoch"], skills))
            if self.connection.recv():
                self.stop()
        elif event["event"] == "run.finished":
            self.end = event


@dataclass
class _Lines(io.TextIOBase):
    """A text file whose whole lines are sent: what a run prints for a person."""

    send: Callable[[Said], None]
    _begun: str = field(default="")

    def write(self, text: str) -> int:
        """Send the lines that this text ends."""
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self.send(Said(line))
        return len(text)


def train_trial(order: Order, connection: Connection, parent: int) -> None:
    """Train a trial's run to its end, or until it is stopped; tells `connection` of it.

    parent: pid of the search, with which this process ends. A Ctrl-C is the search's alone: it
    asks this process to end by SIGTERM.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one that came before this is forgotten
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    die_with_parent(parent)
    reports = _Reports(connection)
    sys.stderr = _Lines(reports.send)
    reports.send(_end(order, reports))
    connection.close()


def _end(order: Order, reports: _Reports) -> Ended:
    from job.record.claim import Refused
    from job.record.document import Damaged, Fenced
    from job.record.lease import Held
    from job.store import StoreError

    try:
        return _train(order, reports)
    except InputError as error:
        return Ended("failed", str(error.faults[0]))
    except (Held, Fenced) as refusal:
        return Ended("held", str(refusal))
    except StoreError as fault:
        return Ended("store_failed", str(fault))
    except (Refused, Damaged) as refusal:
        return Ended("failed", str(refusal))
    except Exception as fault:
        traceback.print_exc()
        return Ended("failed", f"{type(fault).__name__}: {fault}".splitlines()[0])


def _train(order: Order, reports: _Reports) -> Ended:
    import torch

    from job.compare.kept import outcome, train_to_end
    from job.run.attempt import RunAttempt
    from job.store import open_store

    def begun(attempt: RunAttempt) -> None:
        reports.stop = attempt.ending.grace.begin

    if order.one_thread:
        torch.set_num_threads(1)
    spec, run_id = order.spec, order.run_id
    store = open_store(order.store, spec.checkpoint.encryption)
    code = train_to_end(store, run_id, spec, order.folder, [reports], begun, notify=lambda _: None)
    if code == INTERRUPTED:
        return Ended("interrupted")
    if reports.end.get("reason") == "upload_failed":
        return Ended("store_failed", reports.end.get("error") or "")
    found = outcome(run_id, spec.seed, store, f"{spec.name}/{run_id}")
    if found.error is not None:
        return Ended("failed", found.error)
    tasks = found.epochs[-1].tasks
    return Ended(
        "complete",
        skills={name: task.val_skill for name, task in tasks.items()},
        errors={name: task.val_skill_error for name, task in tasks.items()},
    )
