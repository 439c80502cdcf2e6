"""Following a run to its end, from the store; its pod is watched, and replaced if it is lost.

A pod counts as lost if the store has shown no sign of life for some time and RunPod, asked several
times, has no such pod; if RunPod says that it does not run; or if it has been silent for longer
than any healthy run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import NamedTuple

from deploy.exits import (
    CANCELLED,
    DEADLINE,
    JOB_FAILED,
    LOST,
    NO_GPU,
    OK,
    CommandError,
    code_of_reason,
)
from deploy.plan.plan import Plan
from deploy.pods.provision import LOOK_SECONDS, STOPPED, Provisioner
from deploy.runpod.terminate import ABSENCES
from deploy.runs.registry import Contested
from job.events.log import Line
from job.record.document import Damaged
from job.record.history import Tail
from job.record.pods import Attempt
from job.record.result import Result
from job.record.status import Status
from job.show.format import counted
from job.spec import JobSpec
from job.store import StoreError

REPLACEMENTS = 5
"""Pods that a run may lose."""
SLACK = timedelta(minutes=3)
"""After the deadline, at which the pod ends itself; then the submitter ends it."""
SWEEP_SECONDS = 60.0
"""Between two looks for pods that may have appeared late."""
SELF_END_SECONDS = 60.0
"""How long a pod may take to end itself after its run."""
SEE_OFF_SECONDS = 1.0
"""Between two looks whether it has."""
QUIET_SECONDS = 15.0
"""Silence after which a pod that RunPod does not have counts as lost."""

OnEvents = Callable[[Iterable[Line]], None]
"""Takes the events that have come, every few seconds, also if there are none."""


class Outcome(NamedTuple):
    """How following ended."""

    code: int
    """The command's exit code."""
    state: str
    """The run's reason, or `detached`, or `lost`."""
    error: str = ""


def outcome_of(result: Result) -> Outcome:
    """The outcome of a run that has ended."""
    return Outcome(code_of_reason(result.reason), result.reason, result.error or "")


class Follower:
    """One run from its first sign of life to its end."""

    def __init__(
        self, spec: JobSpec, plan: Plan, provisioner: Provisioner, on_events: OnEvents
    ) -> None:
        self.plan, self.provisioner, self.on_events = plan, provisioner, on_events
        self.api, self.life, self.log = provisioner.api, provisioner.life, provisioner.log
        self.registry, self.interrupted = provisioner.registry, provisioner.interrupted
        minutes = max(plan.resources.stall_minutes, spec.checkpoint.offline_minutes)
        self.longest_silence = (minutes + plan.resources.start_timeout_minutes) * 60
        """Seconds after which a silent pod is dead, whatever RunPod says: by then its supervisor
        would have ended the run, had it been the trainer, its data or the store."""
        self.tail = Tail(self.life.store, self.registry.record.run)
        self.lost = 0
        self.swept = time.monotonic()

    def follow(self, rented: Attempt | Result) -> Outcome:
        """Follow to the run's end, over as many pods as it takes; raises CommandError.

        rented: the run's pod, or its end if that came before.
        """
        while True:
            if isinstance(rented, Result):
                self._hand_on_events(final=True)
                return outcome_of(rented)
            outcome = self._follow_pod(rented)
            if outcome is not None:
                return outcome
            self.lost += 1
            if self.lost > REPLACEMENTS or self.api.now() > self.plan.deadline:
                return Outcome(LOST, "lost", f"lost {counted(self.lost, 'pod')}")
            self.log("the run goes on in another pod, from its newest checkpoint")
            try:
                rented = self.provisioner.rent(self.plan)
            except CommandError as error:
                if error.code != NO_GPU:
                    raise
                return Outcome(LOST, "lost", str(error))

    def _follow_pod(self, attempt: Attempt) -> Outcome | None:
        """Follow until the run has ended; None if the pod was lost before."""
        self.life.restart_silence()
        looked, absences = time.monotonic(), 0
        while not self.interrupted.is_set():
            self._hand_on_events()
            if result := self.life.result():
                self._hand_on_events(final=True)
                self._see_off(attempt)
                return outcome_of(result)
            if self.api.now() > self.plan.deadline + SLACK:
                self.provisioner.end(attempt, "deadline_exceeded", seen=True)
                why = "the pod did not end itself in time"
                return Outcome(DEADLINE, "deadline_exceeded", why)
            silence = self.life.silence()
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                status = self.provisioner.status(attempt)
                absences = absences + 1 if status == "" else 0
                if status in STOPPED:
                    return self._give_up(attempt, f"it is {status}")
                if status is not None and silence > self.longest_silence:
                    return self._give_up(attempt, f"no sign of life for {silence / 60:.1f} min")
                self._sweep_unsure(attempt)
            if absences >= ABSENCES and silence > QUIET_SECONDS:
                return self._give_up(attempt, "RunPod has no such pod any more")
            self.interrupted.wait(self.life.pause)
        return Outcome(OK, "detached")

    def _hand_on_events(self, final: bool = False) -> None:
        try:
            self.on_events(self.tail.new(final))
        except (StoreError, Damaged) as fault:
            self.log(f"events cannot be read now: {fault}")

    def _sweep_unsure(self, attempt: Attempt) -> None:
        """Look for pods of ambiguous creates, for as long as they may appear."""
        if self.provisioner.unsure and time.monotonic() - self.swept > SWEEP_SECONDS:
            self.swept = time.monotonic()
            self.provisioner.sweep(attempt)

    def _see_off(self, attempt: Attempt) -> None:
        """See that the pod of a run that has ended is gone, and end it if it is not."""
        until, absences = time.monotonic() + SELF_END_SECONDS, 0
        why = "the run has ended, its pod has not"
        while time.monotonic() < until and absences < ABSENCES and not self.interrupted.is_set():
            status = self.provisioner.status(attempt)
            absences = absences + 1 if status == "" else 0
            if status in STOPPED:
                why = f"the run has ended, its pod is {status}"
                break
            time.sleep(SEE_OFF_SECONDS)
        # The run's end stands, whatever becomes of the record; only a pod that costs money matters.
        try:
            if absences >= ABSENCES:
                self.registry.close(attempt.number, "ended itself")
            else:
                self.provisioner.end(attempt, why, seen=True)
            self.provisioner.sweep(None)
        except (Contested, StoreError) as fault:
            self.log(str(fault))

    def _give_up(self, attempt: Attempt, why: str) -> Outcome | None:
        """End what is left of a pod; None if the run is to go on in another one."""
        if self.life.result() is not None:  # stored in its last moment
            return self._follow_pod(attempt)
        self.provisioner.end(attempt, why, seen=True)
        if self.life.is_cancelled():
            return Outcome(CANCELLED, "cancelled")
        status = self.life.read(Status)
        # A failure that another start may mend, once a user wants it.
        earlier = status is not None and status.pod not in (None, attempt.pod)
        if status is not None and status.exit_code is not None and not earlier:
            error = f"exit {status.exit_code}: {status.error or status.phase}"
            return Outcome(JOB_FAILED, status.phase, error)
        return None
