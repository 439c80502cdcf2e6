"""Worker processes: how they start, and that none outlives the process that starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from job.background import die_with_parent

Given = ParamSpec("Given")
Result = TypeVar("Result")


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Up to `count` processes, which start when `submit` gives them work; killed on an exception.

    They end with this process, however that ends, and at Ctrl-C.
    """
    # Spawned, since a forked child of a process that has used torch may hang.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, spawn, _end_with_parent, (os.getpid(),)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.kill()
            raise


def submit(
    pool: ProcessPoolExecutor,
    act: Callable[Given, Result],
    *args: Given.args,
    **kwargs: Given.kwargs,
) -> Future[Result]:
    """Give the workers a call to make."""
    # A Ctrl-C goes to all processes of the terminal: a new one waits with it until it can end.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(act, *args, **kwargs)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(parent: int) -> None:
    """End this worker at Ctrl-C, and with the process that gives it work, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    die_with_parent(parent)
