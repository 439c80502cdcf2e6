"""The supervisor: starts the trainer, and owns what must not depend on it.

That is the deadline, the stall limit, the count of boots without progress, the end of a run whose
trainer cannot record it, and the end of the pod. It loads no torch. Its exit codes are the
trainer's; on RunPod it does not exit, because there an exit is a restart: it deletes the pod
(job.supervise.pod).

The trainer may be several processes under torchrun (job.supervise.launch). Its exit code is then
the one that rank 0 left (job.run.exit_relay), and a kill goes to torchrun. Each of several machines
has a supervisor; that of machine 0 owns the run, the others watch their own part.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from job.background import GaveUp, wait_for
from job.env import liveness_path, own_pod
from job.errors import InputError
from job.events import Reason
from job.exit_codes import DEVICE_FAILED, FAILED, INTERRUPTED, INVALID, MEANINGS
from job.record import cancel
from job.record.claim import Refused
from job.record.document import Damaged, Fenced
from job.record.layout import new_run_id
from job.record.lease import Held
from job.record.segments import UploadFailed
from job.report.save import store_report
from job.run import liveness
from job.spec import JobSpec, Resources
from job.spec.read import read_spec
from job.store import Store, StoreError, open_store
from job.supervise.admit import NotAdmitted, admit
from job.supervise.conclude import conclude, record_failure
from job.supervise.launch import cluster_of, trainer_command, trainer_environment
from job.supervise.pod import delete_forever
from job.supervise.trainer_process import (
    Progress,
    TrainerProcess,
    describe_exit,
    oom_kills,
    write_log,
)

Result = TypeVar("Result")
RESTARTS = 3
"""How often one container restarts a trainer that was killed or lost its device."""
POLL = 0.2
"""Seconds between two looks at the trainer."""
MARGIN = 2.0
"""Seconds beyond its grace after which a trainer that should end is killed."""
CONCLUDE_SECONDS = 300.0
"""For how long storing the run's end is tried."""
REFUSAL_SECONDS = 30.0
"""The same for why this container trains nothing."""


class End(NamedTuple):
    """How the container's work ended."""

    code: int
    """Exit code of the container."""
    reason: Reason | None = None
    """The reason to record; None if the trainer recorded it, or the run goes on later."""
    error: str = ""

    @property
    def cause(self) -> str:
        """The line that says why: `exit N: …`."""
        error = " | ".join(self.error.splitlines())
        return f"exit {self.code}: {error or MEANINGS.get(self.code, 'unknown')}"


def log(text: str) -> None:
    """Write a line of the supervisor on stderr; events go to stdout."""
    write_log(2, f"supervisor: {text}\n")


class Supervisor:
    """One life of the container.

    signals: numbers of the signals that came, to which a handler adds. clock: in seconds; by it
    the limits of the spec are held.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        signals: list[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.environment, self.signals, self.clock = environment, signals, clock
        self.spec = _spec_path(environment)
        self.store = environment.get("EVENGRAD_STORE", "runs")
        self.run_id = environment.get("RUN_ID") or own_pod(environment) or new_run_id()
        self.grace = _grace(environment.get("EVENGRAD_GRACE", "5"))
        self.liveness_file = liveness_path(environment) or Path(liveness.DEFAULT)
        self.cluster = cluster_of(environment)
        self.trainer_environment = trainer_environment(environment, self.cluster)
        self.begun = clock()
        self.deadline = _deadline(environment.get("EVENGRAD_DEADLINE", ""))
        """In Unix time; the same for every start of the container, in whichever pod."""

    def run(self) -> End:
        """Train, and see that the end is stored; raises NotAdmitted."""
        first = self.cluster.node == 0
        admitted = self._unless_signalled(
            lambda: admit(self.environment, self.spec, self.store, self.run_id, first)
        )
        if admitted is None:
            raise NotAdmitted(INTERRUPTED, "interrupted before the trainer was started")
        spec, store, boots = admitted
        run = f"{spec.name}/{self.run_id}"
        if spec.resources is not None and boots > spec.resources.max_boots:
            why = f"{boots} boots without a new checkpoint; resources.max_boots is exceeded"
            end = End(FAILED, "crash_loop", why)
        else:
            watcher = self._unless_signalled(lambda: cancel.CancelWatcher(store, run))
            end = self._train(spec, watcher) if watcher is not None else End(INTERRUPTED)
        if not first:
            return end
        if end.reason is not None:
            return self._conclude(store, spec, end)
        if end.code in (FAILED, INVALID):
            why = end.error or f"the trainer {describe_exit(end.code)}"
            what = (spec.content_hash(), end.code, why, own_pod(self.environment))
            with suppress(Held, Fenced, StoreError):
                self._unless_signalled(lambda: record_failure(store, run, *what))
        return end

    def _train(self, spec: JobSpec, watcher: cancel.CancelWatcher) -> End:
        """Start the trainer, again if that may help, until it has ended for good."""
        for start in range(1 + RESTARTS):
            if self.signals:
                return End(INTERRUPTED)
            if end := self._end_from_outside(watcher):
                return end
            kills = oom_kills()
            trainer = TrainerProcess(
                self._command(spec), self.liveness_file, self.trainer_environment, self.clock
            )
            if end := self._watch(trainer, spec.resources, watcher):
                return end
            code, tail = trainer.code or 0, " | ".join(trainer.tail)
            curable = code < 0 or code == DEVICE_FAILED
            if not curable and (code != INTERRUPTED or self.cluster.nodes > 1):
                return End(code, error=tail if code in (FAILED, INVALID) else "")
            if self.signals:
                return End(INTERRUPTED)
            how = f"the trainer {describe_exit(code)}" + (f": {tail}" if tail else "")
            log(f"{how}; restart {start + 1} of {RESTARTS}" if start < RESTARTS else how)
        out_of_memory = oom_kills() > kills or trainer.progress.phase == "oom"
        return End(FAILED, "oom" if out_of_memory else "failed", how)

    def _command(self, spec: JobSpec) -> list[str]:
        job = ["run", str(self.spec), "--json", "--store", self.store, "--run-id", self.run_id]
        job += ["--grace", str(self.grace)]
        return trainer_command(job, self.cluster, spec.resources, self.grace)

    def _watch(
        self, trainer: TrainerProcess, limits: Resources | None, watcher: cancel.CancelWatcher
    ) -> End | None:
        """Wait until the trainer has ended; returns an End if that was decided here."""
        end: End | None = None
        passed_on = 0
        while trainer.code is None:
            time.sleep(POLL)
            trainer.look()
            for number in self.signals[passed_on:]:
                trainer.end(number, self.grace + MARGIN)
                passed_on += 1
            if end is None and not self.signals:  # a second signal would cut its grace short
                end = self._end_from_outside(watcher)
                if end is None and limits is not None:
                    end = self._exceeded(trainer.progress, limits)
                if end is not None:
                    trainer.end(signal.SIGTERM, self.grace + MARGIN)
        return end

    def _end_from_outside(self, watcher: cancel.CancelWatcher) -> End | None:
        """The end if the run was cancelled or its deadline is over, in any container."""
        if watcher.asked:
            return End(FAILED, "cancelled", "somebody has asked for the run's end")
        if time.time() > self.deadline:
            deadline = self.environment["EVENGRAD_DEADLINE"]
            return End(FAILED, "deadline_exceeded", f"the run's deadline, {deadline}, is over")
        return None

    def _exceeded(self, progress: Progress, limits: Resources) -> End | None:
        """The end if the trainer exceeds a limit of the spec."""
        if self.clock() - self.begun > limits.max_hours * 3600:
            why = (
                f"resources.max_hours, {limits.max_hours:g} h from the container's start, are over"
            )
            return End(FAILED, "deadline_exceeded", why)
        minutes, names = limits.stall_minutes, "resources.stall_minutes"
        if not progress.has_stepped:  # it loads data, waits for a lease, restores a checkpoint
            minutes, names = minutes + limits.start_timeout_minutes, f"{names} + start_timeout…"
        if progress.seconds_without > minutes * 60:
            return End(FAILED, "stalled", f"no step was finished for {minutes:g} min, {names}")
        return None

    def _conclude(self, store: Store, spec: JobSpec, end: End) -> End:
        """Store the end, with patience; returns the end that stands."""
        reason, until = end.reason, time.monotonic() + CONCLUDE_SECONDS
        assert reason is not None

        def act() -> int:
            what = (store, spec, self.run_id, reason, end.code, end.error)
            return conclude(*what, until=until, print_line=lambda line: write_log(1, f"{line}\n"))

        try:
            code = self._unless_signalled(act, patience=self.grace)
        except (Refused, Held, Fenced, Damaged, InputError, UploadFailed, StoreError) as fault:
            log(f"the run's end could not be stored: {fault}")
            return end
        if code is None:
            return end
        if why := store_report(store, f"{spec.name}/{self.run_id}", lambda: bool(self.signals)):
            log(f"no report.html, as {why}; `python -m deploy.report` makes one at any time")
        return end._replace(code=code)

    def _unless_signalled(self, act: Callable[[], Result], patience: float = 0.0) -> Result | None:
        """What `act` returns; None if a signal came, and no result so many seconds after it.

        A store may take minutes to answer, more than a container has that should end.
        """
        give_up_at = math.inf

        def give_up() -> bool:
            nonlocal give_up_at
            if self.signals and give_up_at == math.inf:
                give_up_at = time.monotonic() + patience
            return time.monotonic() >= give_up_at

        try:
            return wait_for(act, give_up)
        except GaveUp:
            return None


def _spec_path(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("EVENGRAD_SPEC", "/job/spec.json"))


def _grace(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 3600:
            return float(text)
    why = f"EVENGRAD_GRACE: found {text!r}; must be seconds, 0 to 3600; write a number"
    raise NotAdmitted(INVALID, why)


def _deadline(text: str) -> float:
    """Unix time of an ISO 8601 time; infinite for an empty text."""
    if not text:
        return math.inf
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    why = f"EVENGRAD_DEADLINE: found {text!r}; must be an ISO 8601 time; write one with its zone"
    raise NotAdmitted(INVALID, why)


def record_refusal(environment: Mapping[str, str], signals: list[int], end: End) -> None:
    """Write to `status.json` why a submitted run is not trained, if the store can be reached."""
    name, run_id = environment.get("EVENGRAD_NAME"), environment.get("RUN_ID")
    if not name or not run_id or end.code not in (FAILED, INVALID):
        return
    until = time.monotonic() + REFUSAL_SECONDS

    def act() -> None:
        encryption = None
        with suppress(InputError):  # the spec may be what is refused
            encryption = read_spec(_spec_path(environment)).checkpoint.encryption
        store = open_store(environment.get("EVENGRAD_STORE", "runs"), encryption)
        spec_hash = environment.get("EVENGRAD_SPEC_HASH")
        what = (spec_hash, end.code, end.error, own_pod(environment))
        record_failure(store, f"{name}/{run_id}", *what)

    with suppress(Exception):  # a help, never a condition: an exit in a pod would be a restart
        wait_for(act, lambda: bool(signals) or time.monotonic() > until)


def run_container(
    environment: Mapping[str, str],
    signals: list[int],
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Supervise the trainer; returns the container's exit code, and never returns in a pod.

    signals: to which a handler adds the numbers of signals that come.
    """
    refused = False
    try:
        end = Supervisor(environment, signals, clock).run()
    except NotAdmitted as refusal:
        end, refused = End(refusal.code, error=str(refusal)), True
    except Exception as fault:  # an exit in a pod would be a restart, again and again
        end = End(FAILED, error=f"{type(fault).__name__}: {fault}")
    log(end.cause)
    if refused:
        record_refusal(environment, signals, end)
    # A pod that is being stopped is not deleted, and goes on when it is started again.
    if own_pod(environment) and not signals:
        delete_forever(environment, log, end.cause)
    return end.code
