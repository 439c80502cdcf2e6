"""The trainer's exit code past torchrun, which exits with 1 whatever its processes exited with.

Rank 0 decides how a run ends. It sends its code to the other ranks through torchrun's store, and
the first rank of each machine writes it to a file beside the liveness file, for the supervisor. If
there is no such file, the trainer was killed. An end that all ranks agree on is a success for
torchrun, which then kills and logs nothing; at any other end it kills the ranks that are left.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from job.env import liveness_path, rank_of, under_torchrun
from job.exit_codes import FAILED, GATES_FAILED, INTERRUPTED, PASSED
from job.run.signals import SIGNALS

if TYPE_CHECKING:  # the supervisor reads codes without torch
    from torch.distributed.distributed_c10d import Store

KEY = "evengrad/exit_code"
LINGER = 5.0
"""Seconds that a failing rank waits for rank 0, which reports what failed for both."""
FOREVER = 1e7
"""Seconds for a rank that knows that rank 0 is ending: storing the run's end may take long."""


def code_file(liveness: Path) -> Path:
    """The file with the exit code, beside the liveness file."""
    return liveness.with_suffix(".code")


def read_code(liveness: Path) -> int | None:
    """The exit code in the file; None if there is none."""
    with suppress(OSError, ValueError):
        return int(code_file(liveness).read_text())
    return None


@contextmanager
def relaying(environment: Mapping[str, str]) -> Iterator[None]:
    """Exit with the block's exit code and relay it; does nothing without torchrun."""
    if not under_torchrun(environment):
        yield
        return
    code = 0
    try:
        yield
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else FAILED if end.code else 0
    except BaseException:
        traceback.print_exc()
        code = FAILED
    sys.exit(_relay(environment, code))


def _relay(environment: Mapping[str, str], code: int) -> int:
    """Relay rank 0's code; returns the code to exit with."""
    for number in SIGNALS:  # torchrun sends one as soon as another rank has ended with its code
        signal.signal(number, signal.SIG_IGN)
    first = rank_of(environment) == 0
    decided = code if first else await_code(environment, LINGER)
    liveness = liveness_path(environment)
    if liveness is not None and environment["LOCAL_RANK"] == "0":
        with suppress(OSError):
            code_file(liveness).write_text(str(code if decided is None else decided))
    if first:
        with suppress(RuntimeError):  # torchrun is gone, and the other ranks with it
            _store(environment).set(KEY, str(code))
    if decided in (PASSED, GATES_FAILED, INTERRUPTED):
        _disconnect()
    # After a success torchrun waits for the other machines, but an interrupted one never succeeds.
    if liveness is not None and decided in (PASSED, GATES_FAILED):
        return PASSED
    return code if decided is None else decided


def await_code(environment: Mapping[str, str], seconds: float) -> int | None:
    """Rank 0's exit code; None if it has sent none after so many seconds."""
    with suppress(RuntimeError):
        store = _store(environment)
        store.wait([KEY], timedelta(seconds=seconds))
        return int(store.get(KEY))
    return None


def _store(environment: Mapping[str, str]) -> Store:
    """torchrun's store; raises RuntimeError if it is gone."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it does, in an `if`

    where, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    return TCPStore(where, port, is_master=False, timeout=timedelta(seconds=LINGER))


def _disconnect() -> None:
    """Close the connections while the other ranks do so too: later it could hang."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()
