"""What a checkpoint costs training: the stall of one, and the time that it takes beside training.

    python -m tests.bench.checkpoint [--sizes 10,100,1000] [--minutes 1]

Against a real S3 server (SeaweedFS) on this machine, which shares its cores with training: away
from it there is only less to share. All sides of a row run in one process on the same tensors, in
an order that turns with every round. Figures are medians.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import boto3.session
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributed.checkpoint.state_dict_saver import async_save

from job import spec
from job.balance.build import build_balancer
from job.checkpoint.writer import CheckpointInfo, CheckpointWriter
from job.model.losses import TaskLoss
from job.record.run_index import RunIndex, RunIndexStore
from job.store import Store, open_store
from job.train.gradients.ownership import ownership
from job.train.step import Stepper
from job.train.updates.optimizer import build_optimizer
from tests.bench.ledger import BARS, FEATURES, Problem
from tests.support.nets import built_in
from tests.support.s3_server import BUCKET, seaweed

LAYERS = 24
TO_MEMCPY, MORE_SECONDS, TO_SYNCHRONOUS, TO_TRAINING = 2.0, 0.002, 0.02, 0.05
"""The limits: stall ≤ 2× memcpy + 2 ms and ≤ 2 % of synchronous; training ≤ 5 % longer."""

Timed = Callable[[], float]


def state_of(megabytes: float) -> dict[str, Tensor]:
    """Parameters and two moments each, of so many MB in all."""
    size = int(megabytes * 1e6 / 4 / 3 / LAYERS)
    names = ("model.{}", "optimizer.{}.exp_avg", "optimizer.{}.exp_avg_sq")
    return {name.format(k): torch.randn(size) for k in range(LAYERS) for name in names}


def facts(step: int) -> CheckpointInfo:
    return CheckpointInfo(step=step, epoch=1, spec_hash="", version="", next_seq=1, score=None)


class Beside:
    """A publisher and what it tells of its flights."""

    def __init__(self, store: Store, run: str, state: dict[str, Tensor]) -> None:
        head = RunIndexStore(store, run, fenced=True)
        head.write(RunIndex(epoch=1, spec_hash=""))
        self.state, self.step = state, 0
        self.landed: list[float] = []
        """Seconds from being taken to being durable and verified."""
        self.publisher = CheckpointWriter(
            store,
            run,
            head,
            state,
            keep=2,
            verify=True,
            offline_seconds=60,
            store_events=lambda: None,
            report=lambda _, __, seconds: self.landed.append(seconds),
        )

    def take(self) -> float:
        """Seconds that the caller waited."""
        self.step += 1
        at = facts(self.step)
        begun = time.perf_counter()
        self.publisher.take(self.state, {}, at)
        return time.perf_counter() - begun

    def settle(self) -> None:
        if not self.publisher.settle(600):
            raise RuntimeError("nothing was published in 10 minutes") from self.publisher.failure


# --- the stall --------------------------------------------------------------------------------


class Stalls(NamedTuple):
    """Medians, in seconds."""

    memcpy: float
    idle: float
    flying: float
    worst: float
    """Of all saves, idle or flying."""
    synchronous: float
    dcp: float
    landed: float
    """From being taken to being durable and verified."""
    memory: float
    """Growth of the peak resident size by the publisher, relative to the state."""


def stalls(store: Store, megabytes: float, rounds: int, folder: Path) -> Stalls:
    """All sides at one size."""
    state = state_of(megabytes)
    before = _peak(reset=True)
    beside = Beside(store, f"stall-{megabytes:g}", state)
    times: dict[str, list[float]] = {}
    for _ in range(2):
        beside.take()
        beside.settle()
    memory = (_peak() - before) / _bytes(state)
    sides: dict[str, Timed] = {
        "memcpy": _memcpy(state),
        "idle": beside.take,
        "synchronous": _synchronous(state, store),
        "dcp": _dcp(state, folder),
    }
    for i in range(rounds + 1):
        names = list(sides)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            _touch(state)
            seconds = sides[name]()
            flying = _while_flying(beside) if name == "idle" else []
            if i:  # the first round warms up
                times.setdefault(name, []).append(seconds)
                times.setdefault("flying", []).extend(flying)
    beside.publisher.close()
    medians = {name: statistics.median(t) for name, t in times.items()}
    worst, landed = max(times["idle"] + times["flying"]), statistics.median(beside.landed)
    return Stalls(**medians, worst=worst, landed=landed, memory=memory)


def _while_flying(beside: Beside) -> list[float]:
    """Saves at four instants spread over the flight of the one just taken."""
    pause = statistics.median(beside.landed) / 5
    waits = []
    for _ in range(4):
        time.sleep(pause)
        if beside.publisher.settle(0):
            break
        waits.append(beside.take())
    beside.settle()
    return waits


def _memcpy(state: dict[str, Tensor]) -> Timed:
    """libc's memcpy of all bytes, tensor by tensor, into one touched buffer."""
    buffer = torch.zeros(_bytes(state), dtype=torch.uint8).fill_(1)

    def copy() -> float:
        begun, place = time.perf_counter(), buffer.data_ptr()
        for tensor in state.values():
            ctypes.memmove(place, tensor.data_ptr(), tensor.nbytes)
            place += tensor.nbytes
        return time.perf_counter() - begun

    return copy


def _synchronous(state: dict[str, Tensor], store: Store) -> Timed:
    client = boto3.session.Session().client("s3")
    key = f"synchronous/{_bytes(state)}.pt"

    def save() -> float:
        begun = time.perf_counter()
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        client.upload_fileobj(file, BUCKET, key)
        return time.perf_counter() - begun

    return save


def _dcp(state: dict[str, Tensor], folder: Path) -> Timed:
    """PyTorch's own, with its default stager, to a local directory."""

    def save() -> float:
        target = folder / "dcp"
        shutil.rmtree(target, ignore_errors=True)
        begun = time.perf_counter()
        saving = async_save(state, checkpoint_id=target, no_dist=True)
        seconds = time.perf_counter() - begun
        saving.result()  # type: ignore[union-attr]  # a future unless a stager is given
        return seconds

    return save


def _touch(state: dict[str, Tensor]) -> None:
    """What a step does to the state: caches then hold what they hold in training."""
    torch._foreach_mul_(list(state.values()), 1.0)


def _bytes(state: dict[str, Tensor]) -> int:
    return sum(t.nbytes for t in state.values())


def _peak(reset: bool = False) -> int:
    """Peak resident bytes of this process, counted anew from here where asked."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


# --- what it costs beside training --------------------------------------------------------------


class Hidden(NamedTuple):
    """Training time with one checkpoint a minute, and without."""

    minutes: int
    ratio: float
    """Time of the same steps, with / without, a minute each."""
    noise: list[float]
    """without / without, a pair a minute."""
    flight: float
    """Seconds that one is under way."""
    extra: float
    """Seconds that the steps beside one take longer than as many steps after it."""
    alike: float
    """Seconds that those take longer than as many after them."""
    own: float
    """CPU seconds of the publisher's thread, a checkpoint."""
    servers: float
    """CPU seconds of the server, a checkpoint; elsewhere they are not training's."""


def trainer() -> Callable[[], object]:
    """A training step of the real job at batch 32."""
    problem = Problem(4, 32, torch.device("cpu"))
    names = [task.name for task in problem.tasks]
    model = built_in(spec.Lstm(), problem.tasks, BARS, FEATURES)
    balancer = build_balancer(spec.Fixed(), names, [1] * len(names))
    losses = [TaskLoss(task) for task in problem.tasks]
    stepper = Stepper(model, ownership(model, problem.inputs), losses, balancer)
    optimizer = build_optimizer(spec.AdamW(), spec.Fixed(), stepper)
    return lambda: stepper(problem.inputs, problem.targets, optimizer)


def train(step: Callable[[], object], count: int, beside: Beside | None = None) -> float:
    """Seconds of so many steps, with a checkpoint taken after the tenth."""
    begun = time.perf_counter()
    for i in range(count):
        if beside and i == 10:
            beside.take()
        step()
    return time.perf_counter() - begun


def around(step: Callable[[], object], beside: Beside) -> tuple[float, float]:
    """Seconds that steps take longer beside a checkpoint than after it, and after it than later."""
    count, begun = 0, time.perf_counter()
    beside.take()
    while not beside.publisher.settle(0):
        step()
        count += 1
    flying = time.perf_counter() - begun
    after, later = train(step, count), train(step, count)
    return flying - (after + later) / 2, after - later


def _cpu(process: int, thread: int | None = None) -> float:
    """CPU seconds so far of a process of this machine, or of one of its threads."""
    of = f"/proc/{process}/task/{thread}" if thread else f"/proc/{process}"
    fields = Path(of, "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def hidden(store: Store, pid: int, minutes: int, megabytes: float) -> Hidden:
    """Minutes of training with one checkpoint each, between minutes without; then single ones.

    pid: the server's.
    """
    step, beside = trainer(), Beside(store, "hidden", state_of(megabytes))
    train(step, 20, beside)
    beside.settle()
    count = int(60 / (train(step, 50) / 50))
    ratios, noise, used = [], [], []
    thread = beside.publisher._thread.native_id
    for _ in range(minutes):
        first, before = train(step, count), (_cpu(os.getpid(), thread), _cpu(pid))
        one = train(step, count, beside)
        beside.settle()
        used.append((_cpu(os.getpid(), thread) - before[0], _cpu(pid) - before[1]))
        second = train(step, count)
        ratios.append(2 * one / (first + second))
        noise.append(first / second)
    extra, alike = zip(*(around(step, beside) for _ in range(10 * minutes)), strict=True)
    beside.publisher.close()
    return Hidden(
        minutes,
        statistics.fmean(ratios),
        noise,
        statistics.median(beside.landed),
        statistics.median(extra),
        statistics.median(alike),
        *(statistics.fmean(cpu) for cpu in zip(*used, strict=True)),
    )


# --- the report ---------------------------------------------------------------------------------


def report(console: Console, rows: dict[float, Stalls]) -> None:
    table = Table(title="stall of the training thread, ms (medians)")
    for column in (
        "state, MB", "memcpy", "take, idle", "take, flying", "worst", "limit", "of memcpy",
        "torch.save + upload", "of it, %", "DCP async_save", "durable after, s", "memory ×", "met",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for megabytes, s in rows.items():
        limit = min(TO_MEMCPY * s.memcpy + MORE_SECONDS, TO_SYNCHRONOUS * s.synchronous)
        figures = [s.memcpy, s.idle, s.flying, s.worst, limit]
        table.add_row(
            f"{megabytes:g}",
            *(f"{1e3 * seconds:.2f}" for seconds in figures),
            f"{s.idle / s.memcpy:.2f} / {s.flying / s.memcpy:.2f}",
            f"{1e3 * s.synchronous:.0f}",
            f"{100 * s.idle / s.synchronous:.2f} / {100 * s.flying / s.synchronous:.2f}",
            f"{1e3 * s.dcp:.1f}",
            f"{s.landed:.2f}",
            f"{s.memory:.2f}",
            _verdict(s.idle <= limit, s.flying <= limit),
        )
    console.print(table)


def report_hidden(console: Console, megabytes: float, h: Hidden) -> None:
    noise = ", ".join(f"{n:.3f}" for n in h.noise)
    share, clear = h.extra / 60, all(abs(n - 1) < TO_TRAINING for n in h.noise)
    console.print(
        f"{h.minutes} min with one checkpoint of {megabytes:g} MB each / {h.minutes} without: "
        f"{h.ratio:.3f} (limit {1 + TO_TRAINING}; without / without: {noise}): "
        f"{_verdict(h.ratio <= 1 + TO_TRAINING) if clear else 'the machine is too busy to tell'}\n"
        f"steps beside a checkpoint, {h.flight:.2f} s, take {h.extra:+.2f} s longer than as many "
        f"after it (those than later ones: {h.alike:+.2f} s): {share:+.1%} at one a minute: "
        f"{_verdict(share <= TO_TRAINING)}\n"
        f"CPU of a checkpoint: {h.own:.2f} s of the publisher's thread, {h.servers:.2f} s of the "
        "server, which shares this machine's cores"
    )


def _verdict(*met: bool) -> str:
    return " / ".join("yes" if m else "NO" for m in met)


@contextmanager
def server() -> Iterator[tuple[Store, int, Path]]:
    """A store on a server of its own, the server's process id, and a folder for others."""
    with tempfile.TemporaryDirectory() as folder, seaweed(Path(folder) / "seaweed") as running:
        os.environ.update(running.environment())
        yield open_store(f"s3://{BUCKET}/bench"), running.pid, Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="10,100,1000", help="MB")
    parser.add_argument("--minutes", type=int, default=1, help="of training; 0: only the stall")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", "torch.distributed is disabled")
    console = Console(width=150)
    with server() as (store, pid, folder):
        rows = {}
        for megabytes in (float(size) for size in options.sizes.split(",") if size):
            rounds = 15 if megabytes < 50 else 9 if megabytes < 500 else 4
            rows[megabytes] = stalls(store, megabytes, rounds, folder)
            print(f"{megabytes:g} MB done", file=sys.stderr)
        if rows:
            report(console, rows)
        if options.minutes:
            report_hidden(console, 100, hidden(store, pid, options.minutes, 100))


if __name__ == "__main__":
    main()
