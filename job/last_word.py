"""A trainer's exit code, told past torchrun, which ends with 1 whatever its processes ended with.

Rank 0 decides how a run ends. It tells its code to the other ranks through torchrun's store, and
the first rank of each machine leaves it in a file beside the heartbeat, for the supervisor. Without
a file it was killed. To torchrun itself an end that all ranks have come to is a success, at which
it has nobody to kill and nothing to say; at any other it ends the ranks that are left.
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

from job.grace import SIGNALS
from job.heartbeat import path_of
from job.torchrun import rank_of, under_torchrun

if TYPE_CHECKING:  # the supervisor reads codes without torch
    from torch.distributed.distributed_c10d import Store

PASSED, FAILED, GATES_FAILED, INTERRUPTED = 0, 1, 6, 75
KEY = "evengrad/exit_code"
LINGER = 5.0
"""Seconds that a rank in trouble waits for rank 0: what befell both, rank 0 tells."""
FOREVER = 1e7
"""Seconds, for a rank that knows rank 0 to be ending: it may store the run's end for long."""


def file_of(heartbeat: Path) -> Path:
    """Where the code is left."""
    return heartbeat.with_suffix(".code")


def read(heartbeat: Path) -> int | None:
    """The code that was left; None where there is none."""
    with suppress(OSError, ValueError):
        return int(file_of(heartbeat).read_text())
    return None


@contextmanager
def told(environment: Mapping[str, str]) -> Iterator[None]:
    """End the process with the block's exit code, and tell it; nothing without torchrun."""
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
    sys.exit(_tell(environment, code))


def _tell(environment: Mapping[str, str], code: int) -> int:
    """What to end with."""
    for number in SIGNALS:  # torchrun sends one as soon as another rank has ended with its code
        signal.signal(number, signal.SIG_IGN)
    first = rank_of(environment) == 0
    decided = code if first else heard(environment, LINGER)
    heartbeat = path_of(environment)
    if heartbeat is not None and environment["LOCAL_RANK"] == "0":
        with suppress(OSError):
            file_of(heartbeat).write_text(str(code if decided is None else decided))
    if first:
        with suppress(RuntimeError):  # torchrun is gone, and with it the others
            _store(environment).set(KEY, str(code))
    if decided in (PASSED, GATES_FAILED, INTERRUPTED):
        _leave()
    # At a success torchrun waits for that of other machines, which an interrupted one has not.
    if heartbeat is not None and decided in (PASSED, GATES_FAILED):
        return PASSED
    return code if decided is None else decided


def heard(environment: Mapping[str, str], seconds: float) -> int | None:
    """Rank 0's code, waited for so long; None where it told none."""
    with suppress(RuntimeError):
        store = _store(environment)
        store.wait([KEY], timedelta(seconds=seconds))
        return int(store.get(KEY))
    return None


def _store(environment: Mapping[str, str]) -> Store:
    """torchrun's; raises RuntimeError where it is gone."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it does, in an `if`

    where, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    return TCPStore(where, port, is_master=False, timeout=timedelta(seconds=LINGER))


def _leave() -> None:
    """Close the connections to the other ranks, which do so too: with one gone, this could hang."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()
