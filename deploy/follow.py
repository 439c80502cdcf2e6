"""Following a run to its end, from the store; its pod is looked at, and replaced where it is lost.

A pod counts as lost only where the store has shown no sign of life for some time and RunPod, asked
several times, says that it does not run; or where it has been silent for longer than any healthy
run is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from threading import Event
from typing import NamedTuple

from deploy.book import Attempt, Contested, Keeper
from deploy.ending import ABSENCES, DEAD
from deploy.ends import CANCELLED, DEADLINE, FAILED, LOST, NO_GPU, OF_REASON, OK, Stop
from deploy.life import Life
from deploy.plan import Plan
from deploy.rent import LOOK_SECONDS, Renter, Say
from deploy.runpod_api import ApiError, NotThere, RunPod
from job.document import Damaged
from job.figures import counted
from job.history import Tail
from job.journal import Line
from job.spec import JobSpec
from job.store import StoreError

REPLACEMENTS = 5
"""Pods that a run may lose."""
SLACK = timedelta(minutes=3)
"""After the deadline, at which the pod ends itself; then the submitter ends it."""
SWEEP_SECONDS = 60.0
"""Between two looks for pods that may have come to life late."""
SELF_END_SECONDS = 60.0
"""How long a pod whose run has ended has for ending itself."""
SEE_OFF_SECONDS = 1.0
"""Between two looks whether it has."""
QUIET_SECONDS = 15.0
"""Without a sign of life, before a pod that RunPod does not find counts as lost."""


class Ended(NamedTuple):
    """How following ended."""

    code: int
    state: str
    """The run's reason, or: detached, lost."""
    error: str = ""


class Follower:
    """One run from its first sign of life to its end.

    show: is given what events have come, every few seconds, also where there are none.
    """

    def __init__(
        self,
        api: RunPod,
        spec: JobSpec,
        plan: Plan,
        keeper: Keeper,
        life: Life,
        renter: Renter,
        show: Callable[[Iterable[Line]], None],
        say: Say,
        interrupted: Event,
    ) -> None:
        self.api, self.plan, self.keeper, self.life = api, plan, keeper, life
        self.renter, self.show, self.say, self.interrupted = renter, show, say, interrupted
        minutes = max(plan.resources.stall_minutes, spec.checkpoint.offline_minutes)
        self.longest_still = (minutes + plan.resources.start_timeout_minutes) * 60
        """Seconds after which a silent pod is dead, whatever RunPod says: its supervisor would
        have ended the run by then, were it the trainer, its data or the store."""
        self.tail = Tail(life.store, keeper.book.run)
        self.lost = 0
        self.swept = time.monotonic()

    def follow(self, attempt: Attempt) -> Ended:
        """To the run's end, over as many pods as it takes; raises Stop."""
        while True:
            ended = self._follow_pod(attempt)
            if ended is not None:
                return ended
            self.lost += 1
            if self.lost > REPLACEMENTS or self.api.now() > self.plan.deadline:
                return Ended(LOST, "lost", f"lost {counted(self.lost, 'pod')}")
            self.say("the run goes on in another pod, from its newest checkpoint")
            try:
                attempt = self.renter.rent(self.plan)
            except Stop as stop:
                if stop.code != NO_GPU:
                    raise
                return Ended(LOST, "lost", str(stop))

    def _follow_pod(self, attempt: Attempt) -> Ended | None:
        """Until the run has ended, or None where the pod was lost."""
        self.life.begin()
        looked, absences = time.monotonic(), 0
        while not self.interrupted.is_set():
            self._tell()
            if result := self.life.result():
                self._tell(final=True)
                self._see_off(attempt)
                reason = result["reason"]
                code = OF_REASON.get(reason, FAILED)
                return Ended(code, reason, result.get("error") or "")
            if self.api.now() > self.plan.deadline + SLACK:
                self.renter.end(attempt, "deadline_exceeded", seen=True)
                return Ended(DEADLINE, "deadline_exceeded", "the pod did not end itself in time")
            still = self.life.still()
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                away = self._is_away(attempt)
                absences = absences + 1 if away else 0
                if away is not None and still > self.longest_still:
                    return self._give_up(attempt, f"no sign of life for {still / 60:.1f} min")
                self._sweep_unsure(attempt)
            if absences >= ABSENCES and still > QUIET_SECONDS:
                return self._give_up(attempt, "RunPod has no such pod running")
            self.interrupted.wait(self.life.pause)
        return Ended(OK, "detached")

    def _tell(self, final: bool = False) -> None:
        try:
            self.show(self.tail.new(final))
        except (StoreError, Damaged) as fault:
            self.say(f"events cannot be read now: {fault}")

    def _is_away(self, attempt: Attempt) -> bool | None:
        """Whether RunPod says that it does not run; None where it says nothing."""
        assert attempt.pod is not None
        try:
            return self.api.pod(attempt.pod).status in DEAD
        except NotThere:
            return True
        except ApiError:  # a failed look means nothing
            return None

    def _sweep_unsure(self, attempt: Attempt) -> None:
        """Look for what an earlier create may have left, for as long as it may come to light."""
        if self.renter.unsure and time.monotonic() - self.swept > SWEEP_SECONDS:
            self.swept = time.monotonic()
            self.renter.sweep(attempt)

    def _see_off(self, attempt: Attempt) -> None:
        """The run has ended: see that the pod does, too."""
        until, absences = time.monotonic() + SELF_END_SECONDS, 0
        while time.monotonic() < until and absences < ABSENCES and not self.interrupted.is_set():
            absences = absences + 1 if self._is_away(attempt) else 0
            time.sleep(SEE_OFF_SECONDS)
        # The run's end stands, whatever becomes of the book; only a pod that may bill counts more.
        try:
            if absences >= ABSENCES:
                self.keeper.close(attempt.number, "ended itself")
            else:
                self.renter.end(attempt, "the run has ended, its pod has not", seen=True)
            self.renter.sweep(None)
        except (Contested, StoreError) as fault:
            self.say(str(fault))

    def _give_up(self, attempt: Attempt, why: str) -> Ended | None:
        """End what is left of a pod; None where the run is to go on in another."""
        if self.life.result() is not None:  # written in its last moment
            return self._follow_pod(attempt)
        self.renter.end(attempt, why, seen=True)
        if self.life.cancelled():
            return Ended(CANCELLED, "cancelled")
        status = self.life.document("status.json") or {}
        if "exit_code" in status:  # it failed in a way that another start may mend: by hand
            return Ended(FAILED, str(status["phase"]), str(status.get("error") or ""))
        return None
