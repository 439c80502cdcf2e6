"""Batches that a thread reads ahead, beside the steps."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import TypeVar

import torch

Value = TypeVar("Value")
AHEAD = 2
"""Batches that wait, at most, beside the one that is being read."""
LOOK_SECONDS = 0.1
"""Between two looks of a thread with a full queue whether it is still wanted."""


def read_ahead(values: Iterator[Value], device: torch.device) -> Generator[Value, None, None]:
    """The values in their order, computed by a thread; its exceptions are raised here.

    device: a GPU becomes the thread's own. Closed, or no longer referred to, it ends the thread,
    which finishes the value that it is at. `values` must not use torch's random generator.
    """
    ready: queue.Queue[tuple[Value | None, BaseException | None]] = queue.Queue(AHEAD)
    stopped = threading.Event()
    gpu = torch.cuda.current_device() if device.type == "cuda" else None

    def put(value: Value | None, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put((value, error), timeout=LOOK_SECONDS)
                break

    def work() -> None:
        try:
            if gpu is not None:
                torch.cuda.set_device(gpu)  # a new thread has the first GPU
            for value in values:
                put(value)
                if stopped.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            value, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value  # type: ignore[misc]  # without an error it is a value
    finally:
        stopped.set()
        while not ready.empty():
            ready.get_nowait()
        thread.join()
