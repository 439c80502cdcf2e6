"""The supervisor: starts the trainer, and owns what must not depend on it.

The deadline, the stall limit, the count of boots without progress, the end of a run whose trainer
cannot record it, and the end of the pod. It loads no torch. Its exit codes are the trainer's; on
RunPod it does not exit, for there an exit is a restart: it ends the pod (job.pod).

The trainer may be several processes, under torchrun (job.launch): its code then is what rank 0 has
left (job.last_word), and it is killed with torchrun. Of several machines each has a supervisor; the
one of machine 0 owns the run, the others see to their own part.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from job import cancel, heartbeat, last_word
from job.boot import NotAdmitted, admit
from job.claim import Refused
from job.conclude import conclude, note
from job.document import Damaged, Fenced
from job.events import Reason
from job.faults import InputError
from job.launch import MARK, TORCHRUN, cluster_of, command, variables
from job.lease import Held
from job.pod import end_forever, own_pod
from job.records import UploadFailed
from job.report_stored import store_report
from job.run_id import new_run_id
from job.spec import JobSpec, Resources
from job.store import Store, StoreError

Result = TypeVar("Result")
FAILED, INVALID, DEVICE_FAILED, INTERRUPTED = 1, 2, 71, 75
RESTARTS = 3
"""How often one container starts a trainer again that was killed or lost its device."""
TO_COME = ("starting", "training")
"""Phases in which steps are to come."""
POLL = 0.2
"""Seconds between two looks at the trainer."""
MARGIN = 2.0
"""Seconds beyond its grace after which a trainer that was told to end is killed."""
STUCK = 30.0
"""Seconds that a killed trainer has to be gone; after that the end goes on without it."""
TAIL = 3
"""Lines of the trainer's stderr that go to the record."""
TELL_SECONDS = 1.0
"""Longest that a line of the log is waited for."""
CONCLUDE_SECONDS = 300.0
"""How long the run's end is tried to be stored."""


class End(NamedTuple):
    """How the trainer ended, as far as it matters here."""

    code: int
    """Exit code of the container."""
    reason: Reason | None = None
    """To be recorded; None where the trainer did so itself, or the run is to go on later."""
    error: str = ""


def say(text: str) -> None:
    """One line of the supervisor's own, on stderr; events are on stdout."""
    tell(2, f"supervisor: {text}\n")


def tell(descriptor: int, text: str) -> None:
    """Write without waiting for long: a log that nobody takes must not keep a pod alive."""

    def write() -> None:
        with suppress(OSError):
            os.write(descriptor, text.encode("utf-8", "replace"))

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(TELL_SECONDS)


class Trainer:
    """The trainer as a child in a session of its own, so that a terminal's Ctrl-C comes once."""

    def __init__(self, command: list[str], sign: Path, environment: Mapping[str, str]) -> None:
        sign.unlink(missing_ok=True)
        last_word.file_of(sign).unlink(missing_ok=True)
        self.sign = sign
        self.of_many = command[1:3] == TORCHRUN
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.code: int | None = None
        """Exit code, negative for a signal; None while it runs."""
        self._beat: heartbeat.Beat | None = None
        self._moved = self._lived = time.monotonic()
        self._written: float | None = None
        self._kill_at = math.inf
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**environment, heartbeat.VARIABLE: str(sign)},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def _pass_on(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if not self.of_many or line.startswith(MARK):
                self.tail.append(line.removeprefix(MARK).strip())
            tell(2, line)

    def look(self) -> None:
        """Reap whatever has ended, orphans too, which are PID 1's; note whether a step was done."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._process.pid:
                    self._process.returncode = os.waitstatus_to_exitcode(found[1])
                    self.code = self._told(self._process.returncode)
                    self._reader.join(timeout=1)
        late = time.monotonic() - self._kill_at
        if late > 0:
            self.send(signal.SIGKILL)
        if late > STUCK and self.code is None:  # in a driver's call that does not return
            self.code = -signal.SIGKILL
        written = heartbeat.written(self.sign)
        if written != self._written:
            self._written, self._lived = written, time.monotonic()
        beat = heartbeat.read(self.sign)
        if beat is not None and beat != self._beat:
            self._beat, self._moved = beat, time.monotonic()

    def _told(self, code: int) -> int:
        """The trainer's own code, for that of its process: torchrun's is not it."""
        if not self.of_many:
            return code
        told = last_word.read(self.sign)
        return told if told is not None else min(code, -signal.SIGKILL)

    @property
    def still(self) -> float:
        """Seconds since a step or an evaluated batch; if none is to come, since a sign of life."""
        return time.monotonic() - (self._moved if self.phase in TO_COME else self._lived)

    @property
    def stepped(self) -> bool:
        """Whether it has finished a step, or will not."""
        return self.phase not in TO_COME or (self._beat is not None and self._beat.step > 0)

    @property
    def phase(self) -> str:
        """The last one that it told."""
        return self._beat.phase if self._beat is not None else "starting"

    def end(self, number: int, grace: float) -> None:
        """Send it a signal, and SIGKILL if it has not ended so many seconds later."""
        self._kill_at = min(self._kill_at, time.monotonic() + grace)
        self.send(number)

    def send(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


class Supervisor:
    """One life of the container."""

    def __init__(self, environment: Mapping[str, str], told: list[int]) -> None:
        self.environment = environment
        self.told = told
        """Signals that asked this container to end."""
        self.spec = Path(environment.get("EVENGRAD_SPEC", "/job/spec.json"))
        self.store = environment.get("EVENGRAD_STORE", "runs")
        self.run_id = environment.get("RUN_ID") or own_pod(environment) or new_run_id()
        self.grace = _seconds(environment.get("EVENGRAD_GRACE", "5"))
        self.sign = heartbeat.path_of(environment) or Path(heartbeat.DEFAULT)
        self.cluster = cluster_of(environment)
        self.variables = variables(environment, self.cluster)
        self.begun = time.monotonic()
        self.deadline = _time(environment.get("EVENGRAD_DEADLINE", ""))
        """In Unix time; the same for every start of the container, in whichever pod."""

    def run(self) -> End:
        """Train and see to it that the end is stored; raises NotAdmitted."""
        first = self.cluster.node == 0
        admitted = self._heeding(
            lambda: admit(self.environment, self.spec, self.store, self.run_id, first), 0.0
        )
        if admitted is None:
            raise NotAdmitted(INTERRUPTED, "interrupted before the trainer was started")
        spec, store, boots = admitted
        if spec.resources is not None and boots > spec.resources.max_boots:
            why = f"{boots} boots without a new checkpoint; resources.max_boots is exceeded"
            end = End(FAILED, "crash_loop", why)
        else:
            run = f"{spec.name}/{self.run_id}"
            watch = self._heeding(lambda: cancel.Watch(store, run), 0.0)
            end = self._train(spec, watch) if watch is not None else End(INTERRUPTED)
        if not first:
            return end
        if end.reason is not None:
            return self._conclude(store, spec, end)
        if end.code in (FAILED, INVALID):
            with suppress(Held, Fenced, StoreError):
                self._heeding(lambda: note(store, spec, self.run_id, end.code, end.error), 0.0)
        return end

    def _train(self, spec: JobSpec, cancelled: cancel.Watch) -> End:
        """Start the trainer, again where that may help, until it has ended for good."""
        for start in range(1 + RESTARTS):
            if self.told:
                return End(INTERRUPTED)
            if over := self._called_off(cancelled):
                return over
            kills = oom_kills()
            trainer = Trainer(self._command(spec), self.sign, self.variables)
            if over := self._watch(trainer, spec.resources, cancelled):
                return over
            code, said = trainer.code or 0, " | ".join(trainer.tail)
            mortal = code < 0 or code == DEVICE_FAILED
            if not mortal and (code != INTERRUPTED or self.cluster.nodes > 1):
                return End(code, error=said)
            if self.told:
                return End(INTERRUPTED)
            how = f"the trainer {_ended(code)}" + (f": {said}" if said else "")
            say(f"{how}; restart {start + 1} of {RESTARTS}" if start < RESTARTS else how)
        out_of_memory = oom_kills() > kills or trainer.phase == "oom"
        return End(FAILED, "oom" if out_of_memory else "failed", how)

    def _command(self, spec: JobSpec) -> list[str]:
        job = ["run", str(self.spec), "--json", "--store", self.store, "--run-id", self.run_id]
        job += ["--grace", str(self.grace)]
        return command(job, self.cluster, spec.resources, self.grace)

    def _watch(
        self, trainer: Trainer, limits: Resources | None, cancelled: cancel.Watch
    ) -> End | None:
        """Wait until the trainer has ended; an End where that was decided here."""
        over: End | None = None
        heard = 0
        while trainer.code is None:
            time.sleep(POLL)
            trainer.look()
            for number in self.told[heard:]:
                trainer.end(number, self.grace + MARGIN)
                heard += 1
            ending = over is not None or bool(self.told)  # a second signal would cut the first off
            if not ending:
                over = self._called_off(cancelled)
                if over is None and limits is not None:
                    over = self._over(trainer, limits)
                if over:
                    trainer.end(signal.SIGTERM, self.grace + MARGIN)
        return over

    def _called_off(self, cancelled: cancel.Watch) -> End | None:
        """Why no trainer may run, if so: what holds beyond this container."""
        if cancelled.asked:
            return End(FAILED, "cancelled", "somebody has asked for the run's end")
        if time.time() > self.deadline:
            told = self.environment["EVENGRAD_DEADLINE"]
            return End(FAILED, "deadline_exceeded", f"the run's deadline, {told}, is over")
        return None

    def _over(self, trainer: Trainer, limits: Resources) -> End | None:
        """Why the trainer has to end, if it has."""
        if time.monotonic() - self.begun > limits.max_hours * 3600:
            why = (
                f"resources.max_hours, {limits.max_hours:g} h from the container's start, are over"
            )
            return End(FAILED, "deadline_exceeded", why)
        minutes, names = limits.stall_minutes, "resources.stall_minutes"
        if not trainer.stepped:  # data is loaded, a lease waited for, a checkpoint restored
            minutes, names = minutes + limits.start_timeout_minutes, f"{names} + start_timeout…"
        if trainer.still > minutes * 60:
            return End(FAILED, "stalled", f"no step was finished for {minutes:g} min, {names}")
        return None

    def _conclude(self, store: Store, spec: JobSpec, end: End) -> End:
        """Store the end, patiently; returns the one that stands."""
        reason, until = end.reason, time.monotonic() + CONCLUDE_SECONDS
        assert reason is not None

        def act() -> int:
            told = (store, spec, self.run_id, reason, end.code, end.error)
            return conclude(*told, until=until, tell=lambda line: tell(1, f"{line}\n"))

        try:
            code = self._heeding(act, patience=self.grace)
        except (Refused, Held, Fenced, Damaged, InputError, UploadFailed, StoreError) as fault:
            say(f"the run's end could not be stored: {fault}")
            return end
        if code is None:
            return end
        if why := store_report(store, f"{spec.name}/{self.run_id}", lambda: bool(self.told)):
            say(f"no report.html, as {why}; `python -m deploy.report` makes one at any time")
        return end._replace(code=code)

    def _heeding(self, act: Callable[[], Result], patience: float) -> Result | None:
        """What `act` returns; None where a signal came, and so many seconds after it no answer.

        What the store is asked may take minutes, which a container that is told to end has not.
        """
        found: list[Result] = []
        raised: list[BaseException] = []

        def work() -> None:
            try:
                found.append(act())
            except BaseException as fault:
                raised.append(fault)

        working = threading.Thread(target=work, daemon=True)
        working.start()
        give_up = math.inf
        while working.is_alive() and time.monotonic() < give_up:
            working.join(POLL)
            if self.told and give_up == math.inf:
                give_up = time.monotonic() + patience
        for fault in raised:
            raise fault
        return found[0] if found else None


def oom_kills() -> int:
    """Processes of this container that the kernel has killed for want of memory."""
    with suppress(OSError):
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _ended(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    if code == DEVICE_FAILED:
        return "lost its device or ran out of its memory"
    return f"ended with code {code}"


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 3600:
            return float(text)
    why = f"EVENGRAD_GRACE: found {text!r}; must be seconds, 0 to 3600; write a number"
    raise NotAdmitted(INVALID, why)


def _time(text: str) -> float:
    """Unix time of an ISO 8601 time; for nothing, one that never comes."""
    if not text:
        return math.inf
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    why = f"EVENGRAD_DEADLINE: found {text!r}; must be an ISO 8601 time; write one with its zone"
    raise NotAdmitted(INVALID, why)


def live(environment: Mapping[str, str], told: list[int]) -> int:
    """The container's life; returns its exit code, and in a pod does not return.

    told: to which a signal's handler adds its number.
    """
    try:
        end = Supervisor(environment, told).run()
    except NotAdmitted as no:
        end = End(no.code, error=str(no))
    except Exception as fault:  # an exit in a pod would be a restart, again and again
        end = End(FAILED, error=f"{type(fault).__name__}: {fault}")
    say(f"exit {end.code}" + (f": {end.error}" if end.error else ""))
    # A pod that is being stopped needs no end, and goes on when it is started again.
    if own_pod(environment) and not told:
        end_forever(environment, say)
    return end.code
