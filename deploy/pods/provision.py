"""Renting one pod for a run, so that no pod is ever rented without a record of it.

The intent is written before each create, under a name that no other attempt has. A create is never
repeated: after an answer that leaves open whether the pod exists it is looked for by its name at
RunPod, and by its end in the store. A rented pod is compared with what was asked for, and counts
once its container has shown life in the store; else it is ended and the next candidate tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Event

from deploy.exits import (
    CANCELLED,
    ERROR,
    INTERRUPTED,
    INVALID,
    JOB_FAILED,
    NO_ACCESS,
    NO_GPU,
    UNCONFIRMED,
    CommandError,
)
from deploy.output import Log
from deploy.plan.plan import Candidate, Plan
from deploy.plan.pod_env import secrets_in
from deploy.pods import signs_of_life
from deploy.pods.signs_of_life import PodLog, SignsOfLife
from deploy.runpod import lookup
from deploy.runpod.client import RunPod
from deploy.runpod.errors import (
    ApiError,
    BadCredentials,
    BrokenRule,
    NoBalance,
    NoCapacity,
    NotAllowed,
    NotThere,
    RateLimited,
    Unanswered,
)
from deploy.runpod.lookup import find_by_name, find_pod, is_known, may_appear
from deploy.runpod.models import DEAD, Pod
from deploy.runpod.terminate import ABSENCES, end_pod
from deploy.runs.registry import Contested, PodRegistry
from job.record.pods import Attempt
from job.record.result import Result
from job.store import StoreError

LOOK_SECONDS = 10.0
"""Between two looks at a pod that is to start."""
AMBIGUOUS = 2
"""Creates for one candidate, if the first one's answer left no pod."""
LIMITED = 5
"""Creates that RunPod may refuse because it was asked too often."""
LONGEST_PAUSE = 30.0
"""Most seconds between two of them, whatever RunPod asks for."""
STOPPED = DEAD - {"TERMINATED"}
"""Statuses of a pod whose container does not run, and which is not gone: it must be deleted."""
FULL_HOSTS = 2
"""Hosts without space for the image, after which the image or resources.disk_gb is the reason."""


class Provisioner:
    """Rents pods for one run, one at a time."""

    def __init__(
        self, api: RunPod, registry: PodRegistry, life: SignsOfLife, log: Log, interrupted: Event
    ) -> None:
        self.api, self.registry, self.life, self.log = api, registry, life, log
        self.interrupted = interrupted
        """Set by a signal: nothing new is begun, what is begun is brought to a known end."""
        self.refusals: list[str] = []
        """Why candidates were not rented, in order."""
        self.full_hosts = 0
        """Hosts that had no space for the image."""

    def rent(self, plan: Plan) -> Attempt | Result:
        """A pod that has shown life, or the run's end if it came in a pod that nobody saw.

        Raises CommandError, StoreError.
        """
        try:
            return self._rent(plan)
        except Contested:
            raise
        except CommandError as error:
            if error.code != UNCONFIRMED:
                self.sweep(None)
                self._raise_if_unsure(error)
            raise

    def adopt(self, plan: Plan) -> Attempt | None:
        """The newest living pod of an earlier submitter, or None; all others are ended."""
        pods: dict[int, Pod] = {}
        for attempt in self.registry.record.open:
            pod = find_pod(self.api, attempt, self.log)
            if pod is None:
                self._close_if_absent(attempt)
                continue
            wanted = Candidate(attempt.gpu, attempt.cloud)
            attempt = self._record_pod(attempt, pod)
            if self._is_as_asked(plan, wanted, attempt, pod):
                pods[attempt.number] = pod
        alive = [number for number, pod in pods.items() if not pod.is_dead]
        for number, pod in pods.items():
            if pod.is_dead:
                self.end(self.registry.attempt(number), f"it is {pod.status}", seen=True)
            elif number != max(alive):
                self.end(self.registry.attempt(number), "superseded by a later submission")
        if not alive:
            return None
        attempt = self.registry.attempt(max(alive))
        begun = self.life.has_begun(attempt) or self._starts(plan, attempt)
        return attempt if begun else None

    def end(self, attempt: Attempt, why: str, seen: bool = False) -> None:
        """Delete a pod and confirm that it is gone; raises CommandError if that fails."""
        self._delete(attempt, why, seen)
        self.registry.close(attempt.number, why)

    def sweep(self, keep: Attempt | None) -> None:
        """Delete every pod of this run but one: an earlier create may have made one late."""
        with suppress(ApiError):  # the reaper will find what this list does not show
            for pod in self.api.pods():
                mine = self.registry.record.owns(pod.name, pod.variables)
                if mine and (keep is None or pod.id != keep.pod):
                    self.log(f"ending pod {pod.name}, which appeared late")
                    end_pod(self.api, pod.id, pod.name, seen=True)

    @property
    def unsure(self) -> list[Attempt]:
        """Attempts of which a pod may still appear."""
        return [attempt for attempt in self.registry.record.attempts if may_appear(attempt)]

    def status(self, attempt: Attempt) -> str | None:
        """What RunPod says of a pod; "" if it has no such pod, None if it does not answer."""
        assert attempt.pod is not None
        try:
            status = self.api.pod(attempt.pod).status
        except NotThere:
            return ""
        except ApiError:  # a failed look means nothing
            return None
        return "" if status == "TERMINATED" else status

    def _delete(self, attempt: Attempt, why: str, seen: bool) -> None:
        assert attempt.pod is not None
        self.log(f"ending pod {attempt.pod_name}: {why}")
        end_pod(self.api, attempt.pod, attempt.pod_name, seen or is_known(attempt))

    # --- one candidate after the other ----------------------------------------------------------

    def _rent(self, plan: Plan) -> Attempt | Result:
        skipped: set[str] = set()
        for candidate in plan.candidates:
            for _ in range(AMBIGUOUS):
                if candidate.why_not is not None or candidate.cloud in skipped:
                    break
                try:
                    made = self._create(plan, candidate)
                except NotAllowed as refusal:
                    skipped.add(candidate.cloud)
                    self._refuse(candidate, refusal.detail)
                    break
                except (NoCapacity, BrokenRule) as refusal:
                    self._refuse(candidate, refusal.detail)
                    break
                if made is None:
                    if result := self.life.result():
                        self.sweep(None)
                        return result
                    self._refuse(candidate, "no answer whether there is a pod")
                    continue  # ask once more, under a new name
                attempt, pod = made
                if self._is_as_asked(plan, candidate, attempt, pod) and self._starts(plan, attempt):
                    self.sweep(attempt)
                    return attempt
                break
        tried = "; ".join(self.refusals) or "none is within the ceiling"
        raise CommandError(NO_GPU, f"no GPU of the spec could be rented: {tried}")

    def _create(self, plan: Plan, candidate: Candidate) -> tuple[Attempt, Pod] | None:
        """Ask for one pod; None if the answer was ambiguous and no pod was found.

        Raises CommandError; NoCapacity, BrokenRule, NotAllowed.
        """
        self._check_called_off()
        number = 1 + max((a.number for a in self.registry.record.attempts), default=0)
        name = plan.pod_name(number)
        facts = {"gpu": candidate.gpu, "cloud": candidate.cloud, "intended": datetime.now(UTC)}
        attempt = Attempt(number=number, pod_name=name, **facts)
        self.registry.add(attempt, plan.image, plan.registry)
        self.log(f"asking for {candidate.gpu} in {candidate.cloud} as {name}")
        try:
            with self._recording_refusals(number):
                pod = self._send_create(plan, candidate, number)
        except Unanswered as unanswered:
            self.log(f"{unanswered}; looking whether {name} exists")
            known = find_by_name(self.api, name, self.log)
            if known is None:
                self._close_if_over(attempt, unanswered)
                return None
            pod = known
        return self._record_pod(attempt, pod), pod

    def _send_create(self, plan: Plan, candidate: Candidate, number: int) -> Pod:
        """Create a pod. A 429 created nothing, so the request is then sent again."""
        secrets = secrets_in(plan.variables)
        for turn in range(LIMITED):
            # The intent is stored by now: either a `cancel` sees it, or its request is seen here.
            self._check_called_off()
            try:
                return self.api.create(plan.request(candidate, number), secrets)
            except RateLimited as limited:
                if turn + 1 == LIMITED:
                    raise
                self.interrupted.wait(min(limited.wait or 2.0**turn, LONGEST_PAUSE))
                self.registry.check()  # another submitter may have taken the intent for dead
        raise AssertionError

    def _record_pod(self, attempt: Attempt, pod: Pod) -> Attempt:
        """Write a pod into the record; a pod that cannot be recorded must not live."""
        facts = {"pod": pod.id, "cost": pod.cost, "created": pod.created}
        try:
            return self.registry.change(
                attempt.number, **facts, **({"gpu": pod.gpu.id} if pod.gpu else {})
            )
        except (Contested, StoreError) as fault:
            self.log(f"ending pod {pod.name}: it cannot be recorded: {fault}")
            end_pod(self.api, pod.id, pod.name)
            raise

    @contextmanager
    def _recording_refusals(self, number: int) -> Iterator[None]:
        """Record a refused create, and end the command if no other GPU would help."""
        try:
            yield
        except Unanswered:
            raise
        except ApiError as refusal:
            self.registry.close(number, f"refused: {refusal}")
            if isinstance(refusal, BadCredentials | NoBalance):
                raise CommandError(NO_ACCESS, str(refusal)) from None
            if isinstance(refusal, BrokenRule) and refusal.malformed:
                why = f"RunPod does not accept the request: {refusal}"
                raise CommandError(INVALID, why) from None
            if not isinstance(refusal, NoCapacity | BrokenRule | NotAllowed):
                raise CommandError(ERROR, str(refusal)) from None
            raise
        except CommandError as error:
            if not isinstance(error, Contested):
                self.registry.close(number, "called off before the create")
            raise

    # --- pods that may exist, or are not as asked -----------------------------------------------

    def _close_if_absent(self, attempt: Attempt) -> None:
        """Close an attempt that has no pod, unless one may yet appear."""
        if attempt.pod is not None or not may_appear(attempt):
            self.registry.close(attempt.number, "no such pod any more")

    def _close_if_over(self, attempt: Attempt, unanswered: Unanswered) -> None:
        """Close an attempt whose pod nobody saw, if the store shows that it has come and gone.

        Raises CommandError if it has failed.
        """
        number = attempt.number
        pod, failure = self.life.failure()
        if failure and pod not in [a.pod for a in self.registry.record.attempts]:
            self.registry.change(number, pod=pod)
            self.registry.close(number, failure)
            raise CommandError(JOB_FAILED, f"pod {attempt.pod_name} ended: {failure}", pod)
        if self.life.result() is not None:
            self.registry.close(number, "the run has ended, and RunPod has no such pod")
        else:
            self.registry.change(number, why=f"may exist: {unanswered}")

    def _raise_if_unsure(self, error: CommandError) -> None:
        """Turn an error into UNCONFIRMED if a pod may still appear."""
        if unsure := self.unsure:
            names = ", ".join(attempt.pod_name for attempt in unsure)
            why = f"{error}; but pod {names} may exist: run `python -m deploy.reap` in some minutes"
            raise CommandError(UNCONFIRMED, why, unsure[-1].pod_name) from error

    def _is_as_asked(self, plan: Plan, candidate: Candidate, attempt: Attempt, pod: Pod) -> bool:
        """True if the pod has the GPU that was asked for, below the ceiling; else it is ended."""
        wanted = f"{plan.resources.gpu_count} × {candidate.gpu}"
        got = f"{pod.gpu.count} × {pod.gpu.id}" if pod.gpu is not None else "no GPU"
        price = "an unknown price" if pod.cost is None else f"${pod.cost:g}/h"
        if got != wanted:
            wrong = f"it has {got}, not {wanted}"
        elif pod.cost is None or pod.cost > plan.resources.max_price_per_hour:
            wrong = f"it costs {price}, more than ${plan.resources.max_price_per_hour:g}/h"
        else:
            return True
        self._refuse(candidate, wrong)
        self.end(attempt, wrong)
        return False

    def _refuse(self, candidate: Candidate, why: str) -> None:
        self.refusals.append(f"{candidate.gpu} in {candidate.cloud}: {why}")
        self.log(self.refusals[-1])

    # --- the start ------------------------------------------------------------------------------

    def _starts(self, plan: Plan, attempt: Attempt) -> bool:
        """Wait for the container's first sign of life; else end the pod. Raises CommandError."""
        assert attempt.pod is not None
        minutes, clock = plan.resources.start_timeout_minutes, self.life.clock
        begun = clock()
        looked, absences, seen = -math.inf, 0, False
        with self.life.pod_log(attempt.pod) as heard:
            while clock() < begun + minutes * 60:
                if self.life.has_begun(attempt):
                    return True
                self._end_if_called_off(attempt, seen)
                heard.exit_line = self.life.stored_failure(attempt) or heard.exit_line
                if heard.has_failed:
                    return self._ended_early(plan, attempt, heard, "its start failed", seen)
                if clock() - looked >= min(LOOK_SECONDS, minutes * 20):
                    looked = clock()
                    status = self.status(attempt)
                    absences = absences + 1 if status == "" else 0
                    seen = seen or bool(status)
                    if status in STOPPED:  # no end: it costs money for its disk
                        return self._ended_early(plan, attempt, heard, f"it is {status}", seen)
                if absences >= ABSENCES and (seen or looked - begun > lookup.UNSEEN_SECONDS):
                    return self._ended_early(plan, attempt, heard, "it is gone", seen)
                self.interrupted.wait(min(self.life.pause, minutes * 10))
            last = f"; its container's last line: {heard.last_line}" if heard.last_line else ""
        self._refuse(_candidate(attempt), f"no sign of life within {minutes:g} min{last}")
        self.end(attempt, f"start_timeout{last}", seen)
        return False

    def _ended_early(
        self, plan: Plan, attempt: Attempt, heard: PodLog, why: str, seen: bool
    ) -> bool:
        """End a pod that will not start; True if it has begun all the same.

        Raises CommandError if no other pod would fare better.
        """
        if self.life.has_begun(attempt):  # in its last moment
            return True
        why = f"{why} before its first sign of life"
        self._delete(attempt, why, seen)
        heard.is_over.wait(0 if heard.has_failed else signs_of_life.DRAIN_SECONDS)
        cause = heard.exit_line or heard.image_fault or heard.host_fault
        self.registry.close(attempt.number, f"{why}; {cause}" if cause else why)
        if heard.exit_line:
            raise CommandError(
                JOB_FAILED, f"pod {attempt.pod_name} ended: {heard.exit_line}", attempt.pod
            )
        if heard.image_fault:
            fault = f"{plan.image} cannot be pulled: RunPod says {heard.image_fault}"
            raise CommandError(ERROR, fault, attempt.pod)
        if heard.host_fault:
            self._note_full_host(plan, attempt, heard.host_fault)
        elif heard.last_line:
            why = f"{why}; its container's last line: {heard.last_line}"
        self._refuse(_candidate(attempt), heard.host_fault or why)
        return False

    def _note_full_host(self, plan: Plan, attempt: Attempt, line: str) -> None:
        """Count hosts with a full disk; raises CommandError after FULL_HOSTS of them."""
        self.full_hosts += 1
        if self.full_hosts >= FULL_HOSTS:
            why = (
                f"{self.full_hosts} hosts had no space for {plan.image}: RunPod says {line}; "
                f"raise resources.disk_gb, now {plan.resources.disk_gb}, or make the image smaller"
            )
            raise CommandError(ERROR, why, attempt.pod)

    # --- signals --------------------------------------------------------------------------------

    def _check_called_off(self) -> None:
        """Raises CommandError if a user has interrupted this command, or cancelled the run."""
        if self.interrupted.is_set():
            raise CommandError(INTERRUPTED, "interrupted; no pod is left")
        if self.life.is_cancelled():
            raise CommandError(CANCELLED, f"run {self.registry.record.run_id} was cancelled")

    def _end_if_called_off(self, attempt: Attempt, seen: bool) -> None:
        try:
            self._check_called_off()
        except CommandError as error:
            self.end(attempt, "interrupted" if error.code == INTERRUPTED else "cancelled", seen)
            raise


def _candidate(attempt: Attempt) -> Candidate:
    return Candidate(attempt.gpu, attempt.cloud)
