"""Two ranks for several tests: real processes, connected through gloo."""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from job.distributed.ranks import Ranks, join
from job.train.ledger import NotFinite
from job.train.trainer import Trainer
from tests.support.tiny_job import State, Trained, job

WORLD = 2
SECONDS = 600
"""After which a test gives up waiting for a rank."""


class Ended(NamedTuple):
    """What a rank has after training."""

    events: list[Any]
    error: str | None
    finished: bool
    step: int
    end: State


class Ranked(Trained):
    """The trainer of one rank with what it emitted and saved."""

    def __init__(self, training: Trainer) -> None:
        self.training, self.events, self.saved = training, [], []


class Pair:
    """Both ranks; each carries out the same orders."""

    def __init__(self, connections: list[Connection]) -> None:
        self.connections = connections

    def both(self, act: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `act(ranks, *arguments)` returned, by rank."""
        for connection in self.connections:
            connection.send((act, arguments))
        return [self._answer(connection) for connection in self.connections]

    @staticmethod
    def _answer(connection: Connection) -> Any:
        assert connection.poll(SECONDS), "a rank does not answer"
        return connection.recv()


@contextmanager
def pair() -> Iterator[Pair]:
    """Two ranks that end with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(WORLD)]
    processes = [
        context.Process(target=_serve, args=(theirs, rank, port), daemon=True)
        for rank, (_, theirs) in enumerate(ends)
    ]
    for process in processes:
        process.start()
    yield Pair([ours for ours, _ in ends])
    for process in processes:
        process.kill()
        process.join()


def _serve(orders: Connection, rank: int, port: int) -> None:
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "LOCAL_WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = join(os.environ, torch.device("cpu"))
    while True:
        act, arguments = orders.recv()
        orders.send(act(ranks, *arguments))


def train(
    ranks: Ranks,
    folder: Path,
    edits: dict[str, Any],
    state: State | None = None,
    stop_at: tuple[int | None, ...] = (),
) -> Ended:
    """Train, from a state if there is one; stop_at: by rank, the step at which it asks to stop."""
    spec, data = job(folder, edits)
    trained = Ranked(Trainer(spec, data, ranks))
    torch.manual_seed(ranks.rank)  # a state says where the generator stands
    if state is None:
        torch.manual_seed(spec.seed)
    else:
        copied = copy.deepcopy(state)  # a pipe gives both ranks the same memory
        copied.into(trained.training)
    finished, error = False, None
    try:
        finished = trained.run(stop_at[ranks.rank] if stop_at else None)
    except NotFinite as fault:
        error = str(fault)
    training = trained.training
    return Ended(trained.events, error, finished, training.at.step, State(training))
