"""Renting one pod for a run, so that none is ever rented that nobody knows of.

The intent is written before each create, under a name that no other attempt has. A create is never
repeated: after an answer that leaves open whether the pod exists it is looked for by its name. What
is rented is checked against what was asked for, and is ours once its container has shown life in
the store; else it is ended and the next candidate tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from threading import Event

from deploy.book import Attempt, Contested, Keeper
from deploy.ending import ABSENCES, DEAD, UNSEEN_SECONDS, end_pod
from deploy.ends import (
    CANCELLED,
    ERROR,
    FAILED,
    INTERRUPTED,
    INVALID,
    NO_ACCESS,
    NO_GPU,
    UNCONFIRMED,
    Stop,
)
from deploy.environment import secrets_in
from deploy.life import Life
from deploy.looking import find_pod, look_for
from deploy.plan import Candidate, Plan
from deploy.runpod_api import (
    ApiError,
    BadCredentials,
    BrokenRule,
    NoBalance,
    NoCapacity,
    NotAllowed,
    NotThere,
    Pod,
    RateLimited,
    RunPod,
    Unanswered,
)
from job.store import StoreError

LAG_SECONDS = 300.0
"""After which a pod that no listing has shown was never made."""
LOOK_SECONDS = 10.0
"""Between two looks at a pod that is to start."""
AMBIGUOUS = 2
"""How often a candidate is asked for anew after answers that left no pod."""
LIMITED = 5
"""How often RunPod may say that it was asked too often."""
LONGEST_PAUSE = 30.0
"""Seconds that it is then left alone, whatever it asks for."""

Say = Callable[[str], None]


class Renter:
    """Rents pods for one run, one at a time."""

    def __init__(
        self, api: RunPod, keeper: Keeper, life: Life, say: Say, interrupted: Event
    ) -> None:
        self.api, self.keeper, self.life, self.say = api, keeper, life, say
        self.interrupted = interrupted
        """Set by a signal: nothing new is begun, what is begun is brought to a known end."""
        self.refused: list[str] = []
        """Why candidates were not rented, in order."""

    def rent(self, plan: Plan) -> Attempt:
        """A pod that has shown life; raises Stop, StoreError."""
        try:
            return self._rent(plan)
        except Contested:
            raise
        except Stop as stop:
            if stop.code != UNCONFIRMED:
                self.sweep(None)
                self._tell_unsure(stop)
            raise

    def adopt(self, plan: Plan) -> Attempt | None:
        """The newest pod of an earlier submitter, or None; all others are brought to their end."""
        found: dict[int, Pod] = {}
        for attempt in self.keeper.book.open:
            pod = find_pod(self.api, attempt, self.say)
            if pod is None:
                self._note_absence(attempt)
                continue
            asked = Candidate(attempt.gpu, attempt.cloud)
            attempt = self._note(attempt, pod)
            if self._is_as_asked(plan, asked, attempt, pod):
                found[attempt.number] = pod
        alive = [number for number, pod in found.items() if pod.status not in DEAD]
        for number in found:
            if not alive or number != max(alive):
                self.end(self._attempt(number), "superseded by a later submission")
        if not alive:
            return None
        attempt = self._attempt(max(alive))
        started = self.life.shown(attempt) or self._starts(plan, attempt)
        return attempt if started else None

    def end(self, attempt: Attempt, why: str, seen: bool = False) -> None:
        """End a pod and see that it is gone; raises Stop where that cannot be confirmed."""
        assert attempt.pod is not None
        self.say(f"ending pod {attempt.pod_name}: {why}")
        end_pod(self.api, attempt.pod, attempt.pod_name, seen)
        self.keeper.close(attempt.number, why)

    def sweep(self, keep: Attempt | None) -> None:
        """End every pod of this run but one: a create of ours may have come to life late."""
        with suppress(ApiError):  # the reaper will find what this listing did not
            for pod in self.api.pods():
                mine = self.keeper.book.owns(pod.name, pod.variables)
                if mine and (keep is None or pod.id != keep.pod):
                    self.say(f"ending pod {pod.name}, which came to life late")
                    end_pod(self.api, pod.id, pod.name, seen=True)

    @property
    def unsure(self) -> list[Attempt]:
        """What may still come to life: asked for lately, and neither seen nor refused."""
        lately = datetime.now(UTC) - timedelta(seconds=LAG_SECONDS)
        return [a for a in self.keeper.book.attempts if a.is_unsure and a.intended > lately]

    # --- one candidate after the other ----------------------------------------------------------

    def _rent(self, plan: Plan) -> Attempt:
        skipped: set[str] = set()
        for candidate in plan.candidates:
            for _ in range(AMBIGUOUS):
                if candidate.why_not is not None or candidate.cloud in skipped:
                    break
                try:
                    made = self._create(plan, candidate)
                except NotAllowed as no:
                    skipped.add(candidate.cloud)
                    self._refuse(candidate, no.detail)
                    break
                except (NoCapacity, BrokenRule) as no:
                    self._refuse(candidate, no.detail)
                    break
                if made is None:
                    self._refuse(candidate, "no answer that tells whether there is a pod")
                    continue  # ask once more, under a new name
                attempt, pod = made
                if self._is_as_asked(plan, candidate, attempt, pod) and self._starts(plan, attempt):
                    self.sweep(attempt)
                    return attempt
                break
        tried = "; ".join(self.refused) or "none is within the ceiling"
        raise Stop(NO_GPU, f"no GPU of the spec could be rented: {tried}")

    def _create(self, plan: Plan, candidate: Candidate) -> tuple[Attempt, Pod] | None:
        """Ask for one pod; None where the answer was ambiguous and none was found.

        Raises Stop; NoCapacity, BrokenRule, NotAllowed.
        """
        self._heed()
        number = 1 + max((a.number for a in self.keeper.book.attempts), default=0)
        name = plan.pod_name(number)
        facts = {"gpu": candidate.gpu, "cloud": candidate.cloud, "intended": datetime.now(UTC)}
        attempt = Attempt(number=number, pod_name=name, **facts)
        self.keeper.add(attempt)
        self.say(f"asking for {candidate.gpu} in {candidate.cloud} as {name}")
        try:
            with self._told(number):
                pod = self._asked(plan, candidate, number)
        except Unanswered as unanswered:
            self.say(f"{unanswered}; looking whether {name} exists")
            found = look_for(self.api, name, self.say)
            if found is None:
                self.keeper.change(number, why=f"may exist: {unanswered}")
                return None
            pod = found
        return self._note(attempt, pod), pod

    def _asked(self, plan: Plan, candidate: Candidate, number: int) -> Pod:
        """Create, and again where RunPod was asked too often: then nothing has happened."""
        secrets = secrets_in(plan.variables)
        for turn in range(LIMITED):
            try:
                return self.api.create(plan.request(candidate, number), secrets)
            except RateLimited as limited:
                if turn + 1 == LIMITED:
                    raise
                self.interrupted.wait(min(limited.wait or 2.0**turn, LONGEST_PAUSE))
                self._heed()
                self.keeper.check()  # another submitter may have taken the intent for dead
        raise AssertionError

    def _note(self, attempt: Attempt, pod: Pod) -> Attempt:
        """Write a pod into the book; one that cannot be written down must not live."""
        try:
            return self.keeper.change(attempt.number, **_facts(pod))
        except (Contested, StoreError) as fault:
            self.say(f"ending pod {pod.name}: it cannot be written down: {fault}")
            end_pod(self.api, pod.id, pod.name)
            raise

    @contextmanager
    def _told(self, number: int) -> Iterator[None]:
        """Write a refusal into the book, and end the command where no other GPU would help."""
        try:
            yield
        except Unanswered:
            raise
        except ApiError as refusal:
            self.keeper.close(number, f"refused: {refusal}")
            if isinstance(refusal, BadCredentials | NoBalance):
                raise Stop(NO_ACCESS, str(refusal)) from None
            if isinstance(refusal, BrokenRule) and refusal.contract:
                raise Stop(INVALID, f"RunPod does not take the request: {refusal}") from None
            if not isinstance(refusal, NoCapacity | BrokenRule | NotAllowed):
                raise Stop(ERROR, str(refusal)) from None
            raise
        except Stop as stop:
            if not isinstance(stop, Contested):
                self.keeper.close(number, "called off before it was made")
            raise

    # --- looking for pods -----------------------------------------------------------------------

    def _note_absence(self, attempt: Attempt) -> None:
        """Close an attempt that has no pod, unless one may yet come to light."""
        age = datetime.now(UTC) - attempt.intended
        if age > timedelta(seconds=LAG_SECONDS) or attempt.pod is not None:
            self.keeper.close(attempt.number, "not there when looked for again")

    def _tell_unsure(self, stop: Stop) -> None:
        """A command that rents nothing must not say so where something may come to life."""
        if unsure := self.unsure:
            names = ", ".join(attempt.pod_name for attempt in unsure)
            why = f"{stop}; but pod {names} may exist: run `python -m deploy.reap` in some minutes"
            raise Stop(UNCONFIRMED, why, unsure[-1].pod_name) from stop

    def _is_as_asked(self, plan: Plan, candidate: Candidate, attempt: Attempt, pod: Pod) -> bool:
        """Whether what was rented is as asked, at no more than the ceiling; else end it."""
        asked = f"{plan.resources.gpu_count} × {candidate.gpu}"
        got = f"{pod.gpu.count} × {pod.gpu.id}" if pod.gpu is not None else "no GPU"
        price = "an unknown price" if pod.cost is None else f"${pod.cost:g}/h"
        if got != asked:
            wrong = f"it has {got}, not {asked}"
        elif pod.cost is None or pod.cost > plan.resources.max_price_per_hour:
            wrong = f"it costs {price}, more than ${plan.resources.max_price_per_hour:g}/h"
        else:
            return True
        self._refuse(candidate, wrong)
        self.end(attempt, wrong)
        return False

    def _refuse(self, candidate: Candidate, why: str) -> None:
        self.refused.append(f"{candidate.gpu} in {candidate.cloud}: {why}")
        self.say(self.refused[-1])

    def _attempt(self, number: int) -> Attempt:
        return next(a for a in self.keeper.book.attempts if a.number == number)

    # --- the start ------------------------------------------------------------------------------

    def _starts(self, plan: Plan, attempt: Attempt) -> bool:
        """Wait for the container's first sign of life; else end the pod. Raises Stop."""
        assert attempt.pod is not None
        minutes = plan.resources.start_timeout_minutes
        begun = time.monotonic()
        until = begun + minutes * 60
        looked, absences, seen = -math.inf, 0, False
        with self.life.pod_log(attempt.pod):
            while time.monotonic() < until:
                if self.life.shown(attempt):
                    return True
                self._heed_with(attempt, seen)
                if time.monotonic() - looked >= min(LOOK_SECONDS, minutes * 20):
                    looked = time.monotonic()
                    gone = self._is_gone(attempt)
                    absences, seen = (absences + 1 if gone else 0), seen or not gone
                if absences >= ABSENCES and (seen or looked - begun > UNSEEN_SECONDS):
                    return self._ended_early(attempt, seen)
                self.interrupted.wait(min(self.life.pause, minutes * 10))
        self._refuse(_candidate(attempt), f"no sign of life within {minutes:g} min")
        self.end(attempt, "start_timeout", seen)
        return False

    def _is_gone(self, attempt: Attempt) -> bool:
        assert attempt.pod is not None
        try:
            return self.api.pod(attempt.pod).status in DEAD
        except NotThere:
            return True
        except ApiError:
            return False

    def _ended_early(self, attempt: Attempt, seen: bool) -> bool:
        """A pod is no more before its first sign of life; one may have come in its last moment.

        Raises Stop where its container had begun to speak: another would say the same.
        """
        if self.life.shown(attempt):
            return True
        why = "ended before its first sign of life"
        self.end(attempt, why, seen)
        if self.life.said:
            said = f"pod {attempt.pod_name} {why}; it said last: {self.life.said}"
            raise Stop(FAILED, said, attempt.pod)
        self._refuse(_candidate(attempt), why)
        return False

    # --- signals --------------------------------------------------------------------------------

    def _heed(self) -> None:
        if self.interrupted.is_set():
            raise Stop(INTERRUPTED, "interrupted; no pod is left")
        if self.life.cancelled():
            raise Stop(CANCELLED, f"run {self.keeper.book.run_id} was cancelled")

    def _heed_with(self, attempt: Attempt, seen: bool) -> None:
        try:
            self._heed()
        except Stop as stop:
            self.end(attempt, "interrupted" if stop.code == INTERRUPTED else "cancelled", seen)
            raise


def _candidate(attempt: Attempt) -> Candidate:
    return Candidate(attempt.gpu, attempt.cloud)


def _facts(pod: Pod) -> dict[str, object]:
    """What the book keeps of a pod."""
    facts: dict[str, object] = {"pod": pod.id, "cost": pod.cost, "created": pod.created}
    return facts | ({"gpu": pod.gpu.id} if pod.gpu else {})
