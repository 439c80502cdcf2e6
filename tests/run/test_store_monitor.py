"""What the screen shows of the store is in the record too: lost, found again, late, waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.run.store_monitor import OVERDUE_SECONDS, StoreMonitor
from tests.support.faulty_proxy import Proxy
from tests.support.runs import EPOCHS, QUICK, SPEC, Run
from tests.support.tiny_job import STEPS, write
from tests.support.warm_process import Nursery, Process, until

LAST = EPOCHS * STEPS - 1
OF_STORE = ("store_lost", "store_found", "waiting_for_store")


def until_alarm(process: Process, kind: str) -> None:
    """Wait until the process has printed such an alarm."""
    until(lambda: f'"kind":"{kind}"' in process.out, say=lambda: process.out[-2000:] + process.err)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [20, pytest.param(LAST, marks=pytest.mark.slow)],
    ids=["in the middle", "at the end"],
)
def test_an_outage_is_recorded(
    nursery: Nursery, proxy: Proxy, s3_url: str, tmp_path: Path, step: int
) -> None:
    """A store that is lost and found again leaves two alarms; one that the finished training waits
    for, a third between them."""
    run = Run(nursery, write(tmp_path, SPEC), s3_url)
    process, hold = run.start_held(step, patches=QUICK)
    hold.until_reached()
    proxy.rule = lambda _: "503"
    until_alarm(process, "store_lost")
    if step == LAST:
        hold.release()
        until_alarm(process, "waiting_for_store")
    proxy.rule = lambda _: None
    until_alarm(process, "store_found")
    hold.release()
    assert process.wait() == 0, process.err
    kinds = [e["kind"] for e in run.history() if e["event"] == "alarm"]
    expected = ["store_lost", *["waiting_for_store"] * (step == LAST), "store_found"]
    assert [kind for kind in kinds if kind in OF_STORE] == expected
    assert run.history()[-1]["event"] == "run.finished"


class TestByItsClock:
    """The monitor alone, by a clock that the test moves."""

    @pytest.fixture(autouse=True)
    def monitor(self) -> StoreMonitor:
        """The monitor, its clock and its alarms."""
        self.now, self.alarms = 0.0, list[tuple[str, str]]()
        self.monitored = StoreMonitor(lambda *alarm: self.alarms.append(alarm), lambda: self.now)
        return self.monitored

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.alarms]

    def test_an_outage_is_told_once(self, monitor: StoreMonitor) -> None:
        """However often it looks: one alarm when the store is lost, one when it is back."""
        for offline in (None, 1.0, 4.0, 7.0, None, None):
            monitor.look(offline)
            self.now += 3.0
        assert self.kinds() == ["store_lost", "store_found"]
        assert self.alarms[1][1] == "the store answers again after 10 s"

    def test_an_overdue_checkpoint(self, monitor: StoreMonitor) -> None:
        """One that is not stored in time is named once, with the newest that is; when one has
        been stored, a later one may be overdue in turn."""
        monitor.snapshot_taken(5)
        monitor.snapshot_stored(5, 1.0)
        monitor.snapshot_taken(10)
        self.now = OVERDUE_SECONDS
        monitor.look(None)
        assert self.alarms == []
        monitor.snapshot_taken(15)
        self.now += 1.0
        monitor.look(None)
        monitor.look(None)
        assert self.kinds() == ["checkpoint_overdue"]
        assert (
            "of step 10 is not in the store after 61 s; the newest there: step 5"
            in (self.alarms[0][1])
        )
        monitor.snapshot_stored(15, 30.0)  # it has replaced the one of step 10
        monitor.snapshot_taken(20)
        self.now += 90.0
        monitor.look(None)
        assert len(self.alarms) == 1, "three times what the last one took is not over"
        self.now += 1.0
        monitor.look(None)
        assert self.kinds() == ["checkpoint_overdue"] * 2

    def test_nothing_follows_the_last_event(self, monitor: StoreMonitor) -> None:
        """Once closed it raises nothing more."""
        monitor.close()
        monitor.look(5.0)
        assert self.alarms == []
