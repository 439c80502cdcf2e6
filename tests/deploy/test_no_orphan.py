"""No orphan, ever: whatever fails at RunPod, and whenever submitters and hosts die.

A schedule is a sequence of submissions, faults and deaths that hypothesis draws. At its end nothing
fails any more, submitters and pods have done what they do by themselves, and `reap` has run once.
Then no pod may cost money, no run may have been trained by two pods at the same time, and no pod
may have cost money for longer than to its deadline and SLACK, which is long for busy machines.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.runpod.faults import Fault, Oddity
from tests.runpod.pod import SimulatedPod
from tests.support.simulated_user import RESOURCES, Renting, renting
from tests.support.warm_process import Nursery, Process, until

SCHEDULES, SHARDS, AT_ONCE = 108, 3, 6
"""How many in all, in how many tests, and how many of a test at the same time, each with an account
of its own: they mostly wait."""
DEADLINE = 15.0
"""Seconds from a submission to its pods' own end."""
SLACK = 120.0
"""Seconds after the deadline: for the pod's own end, or for a `reap` that follows."""
PATIENCE = 600.0
"""Seconds after which a submitter or a pod that has not ended by itself never will."""
STALE = 0.6
"""Seconds after which `reap` takes a pod without a heartbeat for dead."""
QUIET = STALE + 1.4
"""Seconds from the last death to `reap`, which goes by RunPod's clock, in whole seconds."""
SPEC: dict[str, Any] = {
    "train.epochs": 25,
    "resources": RESOURCES
    | {"max_hours": DEADLINE / 3600, "start_timeout_minutes": 0.06, "stall_minutes": 0.05},
    "checkpoint.offline_minutes": 0.05,
}

PATCHES = {
    "deploy.plan.prepare:REACHABLE": ["s3://", "/"],
    "deploy.runpod.client:TIMEOUT": 2.0,
    "deploy.pods.signs_of_life:DRAIN_SECONDS": 2.0,
}
"""A store in a directory, which every process opens in no time; silence does not last."""

ANSWERS = st.sampled_from([500, 502, 503, 429, 403, "silence", "cut", "broken"])
FAULTS = st.builds(
    Fault,
    ANSWERS,
    done=st.booleans(),
    times=st.integers(1, 2),
    key=st.sampled_from([None, "account", "pod"]),
    text=st.just("planted"),
    retry_after=st.just(1),
)
ODDITIES = st.one_of(
    st.none(),
    st.sampled_from([Oddity(stuck=s) for s in ("PROVISIONING", "STARTING", "RUNNING")]),
    st.just(Oddity(gpu="NVIDIA A40")),
    st.just(Oddity(price=9.0)),
)


class Schedule(NamedTuple):
    """What goes wrong, and when."""

    create: list[Fault | None]
    listing: list[Fault | None]
    get: list[Fault | None]
    delete: list[Fault | None]
    pods: list[Oddity | None]
    listing_lag: float
    deaths: list[tuple[str, float]]
    """In turn: what dies or is asked for, and after how many seconds."""


def some(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.one_of(st.none(), elements), max_size=3)


SCHEDULE = st.builds(
    Schedule,
    create=some(FAULTS),
    listing=some(FAULTS),
    get=some(FAULTS),
    delete=some(FAULTS),
    pods=st.lists(ODDITIES, max_size=3),
    listing_lag=st.sampled_from([0.0, 0.0, 0.15, 1.0]),
    deaths=st.lists(
        st.tuples(
            st.sampled_from(
                ["submitter", "vanishes", "exited", "silent", "interrupt", "resume", "cancel"]
            ),
            st.floats(0.0, 2.0),
        ),
        max_size=4,
    ),
)


class Play:
    """One schedule, played."""

    def __init__(self, user: Renting, schedule: Schedule) -> None:
        self.user, self.schedule = user, schedule
        self.submitters: list[Process] = []
        self.before = set(user.runpod.pods)

    @property
    def pods(self) -> list[SimulatedPod]:
        """Of this schedule."""
        return [pod for pod in self.user.pods if pod.id not in self.before]

    def run(self) -> None:
        """Play it from the first submission to the end, and check what must hold then."""
        shutil.rmtree(self.user.folder / "state", ignore_errors=True)
        faults = self.user.runpod.faults
        for name in ("create", "listing", "get", "delete", "pods", "listing_lag"):
            setattr(faults, name, getattr(self.schedule, name))
        self.submitters.append(self.user.submit(**PATCHES))
        for what, delay in self.schedule.deaths:
            time.sleep(delay)
            self._happens(what)
        self._quiet()
        self._check()

    def _happens(self, what: str) -> None:
        if what in ("submitter", "interrupt"):
            number = signal.SIGKILL if what == "submitter" else signal.SIGINT
            self.submitters[-1].signal(number)
        elif what in ("resume", "cancel"):
            if (run := self._run_id()) is not None:
                start = self.user.resume if what == "resume" else self._cancel
                self.submitters.append(start(run, **PATCHES))
        elif pods := self.user.runpod.billing():
            self.user.runpod.kill_host(pods[-1].id, what)  # type: ignore[arg-type]  # a Death

    def _cancel(self, run: str, **patches: Any) -> Process:
        return self.user.start("cancel", run, "--yes", "--wait", "2", **patches)

    def _run_id(self) -> str | None:
        try:
            return self.user.run_id
        except ValueError:  # the submitter has not come so far
            return None

    def _quiet(self) -> None:
        """Nothing fails any more; everything ends by itself; then `reap`, once."""
        faults = self.user.runpod.faults
        faults.create, faults.listing, faults.get, faults.delete = [], [], [], []
        faults.pods, faults.listing_lag = [], 0.0
        for process in self.submitters:
            process.wait(PATIENCE)
        until(lambda: not self._working(), PATIENCE, self._facts)
        time.sleep(QUIET)
        reaped = self.user.start("reap", "--yes", "--stale-minutes", str(STALE / 60))
        assert reaped.wait() == 0, reaped.err

    def _working(self) -> bool:
        """True if a pod is at work, or will be, of a run that has not ended."""
        return any(pod.will_run and not self._has_ended(pod) for pod in self.pods)

    def _has_ended(self, pod: SimulatedPod) -> bool:
        return (self.user.folder / "store" / "small" / pod.env["RUN_ID"] / "result.json").exists()

    def _facts(self) -> str:
        return str([(pod.name, pod.status, pod.billed_seconds) for pod in self.pods])

    def _check(self) -> None:
        facts = self._facts()
        assert self.user.runpod.billing() == [], facts
        for pod in self.pods:
            assert pod.billed_seconds <= DEADLINE + SLACK, facts
        for pod in self.pods:
            notes = self.user.folder / "pods" / f"steps-{pod.env['RUN_ID']}"
            epochs = list(map(int, notes.read_text().split())) if notes.exists() else []
            assert epochs == sorted(epochs), f"two pods trained at the same time: {facts}"


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_orphan_ever(
    shard: int, nursery: Nursery, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """No schedule leaves a pod that bills, or has two pods train one run."""
    played = pods = 0

    @seed(shard)
    @settings(
        max_examples=SCHEDULES // SHARDS // AT_ONCE,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],  # to shrink a schedule takes an hour
    )
    @given(st.lists(SCHEDULE, min_size=AT_ONCE, max_size=AT_ONCE))
    def play(schedules: list[Schedule]) -> None:
        nonlocal played, pods
        plays = list(map(Play, users, schedules))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(Play.run, plays))
        nursery.children.clear()
        played += len(plays)
        pods += sum(len(play.pods) for play in plays)

    with ExitStack() as accounts:
        users = []
        for name in map(str, range(AT_ONCE)):
            folder = tmp_path / name
            folder.mkdir()
            account = renting(folder, str(folder / "store"), nursery)
            users.append(accounts.enter_context(account))
            users[-1].write(**SPEC)
        play()
    assert played >= SCHEDULES // SHARDS
    record_property("rate", f"{played} schedules, {pods} pods, no orphan")
