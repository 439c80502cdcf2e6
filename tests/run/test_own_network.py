"""A run with a network of one's own goes on bit by bit once killed, but not with another file."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.own_networks import SOUND, place
from tests.support.runs import SPEC, Run, Undisturbed, assert_undisturbed
from tests.support.warm_process import Nursery

KILLS = (4, 11, 38)
"""Steps after which a run waits for its kill."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_a_killed_run_ends_bit_identical(nursery: Nursery, tmp_path: Path, name: str) -> None:
    """Weights, optimizer's state, steps and epochs are those of a run that nothing disturbed."""
    spec = place(tmp_path, *SOUND[name], SPEC)
    whole = Run(nursery, spec, str(tmp_path / "store"), "whole")
    process = whole.start()
    assert process.wait() == 0, process.err
    killed = Run(nursery, spec, str(tmp_path / "store"), "killed")
    for step in KILLS:
        process, hold = killed.start_held(step)
        hold.until_reached()
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    process = killed.start()
    assert process.wait() == 0, process.err
    assert_undisturbed(killed, Undisturbed(spec, whole.end()))


@pytest.mark.slow
def test_a_resume_with_another_file_is_refused(nursery: Nursery, tmp_path: Path) -> None:
    """One line names the file; nothing in the store changes."""
    spec = place(tmp_path, *SOUND["conv"], SPEC)
    run = Run(nursery, spec, str(tmp_path / "store"))
    process, hold = run.start_held(11)
    hold.until_reached()
    process.signal(signal.SIGKILL)
    process.wait()
    with (tmp_path / "blocks.py").open("a") as file:
        file.write("# more\n")
    refused = run.start()
    assert refused.wait() == 2
    (line,) = refused.err.splitlines()
    assert line.startswith("$.model.sha256.blocks.py: found ")
    assert line.endswith("set it back, or give the run another id")
