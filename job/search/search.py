"""The search: keeps so many trials running, each in a process, until all have ended."""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from optuna.trial import Trial

from job.errors import InputError
from job.run.signals import SIGNALS
from job.search.show import Board
from job.search.study import SearchStudy
from job.search.train_trial import Ended, EpochEnded, Order, Said, train_trial

POLL = 0.5
"""Seconds after which a signal is noticed at the latest."""
GRACE = 30.0
"""Seconds that the trials' processes have to end once they are asked to."""
MOST_FAILURES = 5
"""Trials that fail in a row before the search ends."""
MOST_KILLS = 3
"""Times that a trial's process is killed, without an epoch between, before the trial fails."""


@dataclass
class Running:
    """A trial whose process runs."""

    trial: Trial
    order: Order
    process: BaseProcess
    connection: Connection
    epoch: int = 0
    """The newest that has ended."""
    kills: int = 0
    """Times that its process was killed since then."""
    pruned: bool = False
    asked: bool = False
    """True once its process was asked to end."""


@dataclass
class Search:
    """Trains trials of a study; jobs: at the same time."""

    study: SearchStudy
    store: str
    """URL of the store of the runs."""
    jobs: int
    board: Board
    reason: str | None = None
    """Why no further trial begins, if it is not that all have."""
    interrupted: bool = False
    out_of_time: bool = False
    """True if no further trial begins because its time is over."""
    clock: Callable[[], float] = time.monotonic
    _running: list[Running] = field(default_factory=list)
    _failures: int = 0

    def run(self, trials: int, until: float = math.inf) -> None:
        """Go on with what was interrupted, then train new trials until the study has `trials`.

        until: a time of the clock, from which on no new trial begins.
        """
        left = self.study.unfinished
        with self._handling_signals(), self._ending_processes():
            while True:
                while len(self._running) < self.jobs:
                    trial = self._next(left, trials, until)
                    if trial is None:
                        break
                    self._begin(trial)
                if not self._running:
                    return
                self._hear_all()

    def _next(self, left: list[Trial], trials: int, until: float) -> Trial | None:
        """The trial that begins next, or goes on; None if none does."""
        if self.interrupted or self.reason is not None:
            return None
        if left:
            return left.pop(0)
        if len(self.study.begun) >= trials:
            return None
        self.out_of_time = self.clock() >= until
        return None if self.out_of_time else self.study.ask()

    # --- processes --------------------------------------------------------------------------------

    def _begin(self, trial: Trial) -> None:
        study = self.study
        try:
            spec = study.spec(trial)
        except InputError as error:
            self._failed(trial, str(error.faults[0]))
            return
        run_id, folder = study.run_id(trial.number), study.space.folder
        order = Order(spec, run_id, folder, self.store, one_thread=self.jobs > 1)
        self.board.begin(trial.number, spec.train.epochs)
        self._running.append(Running(trial, order, *_started(order)))

    def _hear_all(self) -> None:
        """Take in what the processes say within POLL seconds."""
        for one in self._running:
            if self.interrupted and not one.asked:
                one.asked = True
                one.process.terminate()
        ready = multiprocessing.connection.wait([one.connection for one in self._running], POLL)
        for one in [one for one in self._running if one.connection in ready]:
            try:
                message = one.connection.recv()
            except (EOFError, OSError):
                self._gone(one)
                continue
            match message:
                case Said():
                    self.board.print(f"trial {one.trial.number}: {message.text}")
                case EpochEnded():
                    self._epoch(one, message)
                case Ended():
                    self._ended(one, message)

    def _epoch(self, one: Running, message: EpochEnded) -> None:
        if message.epoch > one.epoch:
            one.epoch, one.kills = message.epoch, 0
        last = message.epoch >= one.order.spec.train.epochs
        if not last and not one.pruned:
            one.pruned = self.study.is_hopeless(one.trial, message.epoch, message.skills)
        self.board.advance(one.trial.number, message.epoch, message.skills)
        with suppress(OSError):  # it was killed meanwhile
            one.connection.send(one.pruned)

    def _ended(self, one: Running, end: Ended) -> None:
        self._remove(one)
        number = one.trial.number
        if one.pruned:
            self._failures = 0
            self.board.end(self.study.frozen(number), f"pruned after epoch {one.epoch}")
        elif end.how == "complete" and not self.study.objective.missing(end.skills):
            self._failures = 0
            self.study.complete(one.trial, end.skills, end.errors)
            self.board.end(self.study.frozen(number))
        elif end.how == "complete":
            missing = ", ".join(self.study.objective.missing(end.skills))
            self._failed(one.trial, f"the validation split cannot tell the skill of {missing}")
        elif end.how == "failed":
            self._failed(one.trial, end.why)
        elif end.how == "store_failed":
            self.reason = end.why
        elif end.how == "held":
            self.board.end(self.study.frozen(number), f"left alone: {end.why}")

    def _gone(self, one: Running) -> None:
        """The process has ended without a word; its trial goes on from its checkpoint."""
        self._remove(one)
        if one.pruned or one.asked:
            return
        one.kills += 1
        code = one.process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if one.kills >= MOST_KILLS:
            self._failed(one.trial, f"its process was {how} {one.kills} times within an epoch")
            return
        self.board.print(f"trial {one.trial.number}: its process was {how}; it goes on")
        one.process, one.connection = _started(one.order)
        self._running.append(one)

    def _failed(self, trial: Trial, why: str) -> None:
        self.study.fail(trial, why)
        self.board.end(self.study.frozen(trial.number), f"failed: {why}")
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self.reason = f"{self._failures} trials in a row failed, the last one: {why}"

    def _remove(self, one: Running) -> None:
        self._running.remove(one)
        one.process.join()
        one.connection.close()

    # --- the end ----------------------------------------------------------------------------------

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        """The first signal ends the search politely, a second one at once."""
        before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self.interrupted = True
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    @contextmanager
    def _ending_processes(self) -> Iterator[None]:
        """If the search fails, its trials keep a last checkpoint before they end."""
        try:
            yield
        finally:
            for one in self._running:
                one.process.terminate()
            for one in self._running:
                one.process.join(GRACE)
                one.process.kill()


def _started(order: Order) -> tuple[BaseProcess, Connection]:
    """A process that trains, and this end of the pipe to it."""
    # Spawned, since a forked child of a process that has used torch may hang.
    spawn = multiprocessing.get_context("spawn")
    ours, its = spawn.Pipe()
    process = spawn.Process(target=train_trial, args=(order, its, os.getpid()))
    # A Ctrl-C goes to all processes of the terminal: the new one waits with it until it has left.
    resource_tracker.ensure_running()  # its first start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    its.close()
    return process, ours
