"""Checkpoints are published beside training, count only when whole, and are verified when read."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from job.checkpoint.reader import read
from job.checkpoint.restore import Restored, restore
from job.checkpoint.writer import CheckpointInfo, CheckpointWriter
from job.record.document import Damaged, Fenced
from job.record.run_index import Kept, RunIndex, RunIndexStore
from job.store import Forbidden, Store, Stored, Unavailable
from job.store.base import CHUNK, PART, Bytes
from job.store.directory import DirectoryStore
from tests.support.warm_process import until

RUN = "name/run"
Hook = Callable[[str, str], object]


def nothing(_: str, __: str) -> None:
    """Of a hook."""


class Watched(DirectoryStore):
    """A directory that calls a hook before and after every operation; either may raise."""

    before: Hook = staticmethod(nothing)
    after: Hook = staticmethod(nothing)

    @contextmanager
    def _hooked(self, operation: str, key: str) -> Iterator[None]:
        """Call the hooks around one operation, with its key below the run."""
        key = key.removeprefix(f"{RUN}/")
        self.before(operation, key)
        yield
        self.after(operation, key)

    def get(self, key: str) -> Stored:
        with self._hooked("get", key):
            data = b"".join(super().read(key))
            return Stored(data, hashlib.sha256(data).hexdigest())

    def read(self, key: str, chunk: int = CHUNK) -> Iterator[bytes]:
        with self._hooked("read", key):
            yield from super().read(key, chunk)

    def put(self, key: str, data: Bytes) -> str:
        with self._hooked("put", key):
            return super().put(key, data)

    def put_if_absent(self, key: str, data: Bytes) -> str:
        with self._hooked("swap", key):
            return super().put_if_absent(key, data)

    def put_if_match(self, key: str, data: Bytes, etag: str) -> str:
        with self._hooked("swap", key):
            return super().put_if_match(key, data, etag)

    def upload(self, key: str, parts: Iterable[Bytes], part: int = PART) -> str:
        with self._hooked("upload", key):
            return super().upload(key, parts, part)

    def delete(self, key: str) -> None:
        with self._hooked("delete", key):
            super().delete(key)


def state(step: int, size: int = 6) -> dict[str, Tensor]:
    """A state that tells its step."""
    return {
        "model.weight": torch.full((size, 2), float(step)),
        "model.none": torch.empty(0),
        "optimizer.0.step": torch.tensor(float(step)),
        "generator.cpu": torch.full((size,), step % 256, dtype=torch.uint8),
    }


def facts(step: int, score: float | None = None) -> CheckpointInfo:
    return CheckpointInfo(
        step=step, epoch=1, spec_hash="hash", version="0", next_seq=1, score=score
    )


class Run:
    """A run that publishes, and the steps that it has saved."""

    def __init__(
        self,
        store: Store,
        keep: int = 2,
        offline: float = 30,
        size: int = 6,
        store_events: Callable[[], None] = lambda: None,
    ) -> None:
        self.store, self.size = store, size
        self.index = RunIndexStore(store, RUN, fenced=True)
        before = self.index.read()
        epoch = before.epoch + 1 if before else 1
        body = before or RunIndex(epoch=epoch, spec_hash="hash")
        self.index.write(body.model_copy(update={"epoch": epoch}))
        self.saved: list[int] = []
        self.writer = CheckpointWriter(
            store,
            RUN,
            self.index,
            state(0, size),
            keep=keep,
            verify=True,
            offline_seconds=offline,
            store_events=store_events,
            report=lambda at, _, __: self.saved.append(at.step),
        )

    def take(self, step: int, score: float | None = None) -> None:
        self.writer.take(state(step, self.size), {"at": step}, facts(step, score))

    def publish(self, step: int, score: float | None = None) -> None:
        """Take, and wait until it is durable."""
        self.take(step, score)
        assert self.writer.settle(600), self.writer.failure


@contextmanager
def running(store: Store, **options: Any) -> Iterator[Run]:
    run = Run(store, **options)
    try:
        yield run
    finally:
        run.writer.close()


def index_of(store: Store) -> RunIndex:
    index = RunIndexStore(store, RUN, fenced=True).read()
    assert index is not None
    return index


def steps(store: Store) -> list[int]:
    """Of the checkpoints that the index names, newest first."""
    return [kept.step for kept in index_of(store).checkpoints]


def folders(store: Store) -> set[str]:
    """Of all checkpoints of which anything is stored."""
    keys = (entry.key.removeprefix(f"{RUN}/") for entry in store.list(f"{RUN}/checkpoints/"))
    return {key.rpartition("/")[0] for key in keys}


def assert_whole(store: Store) -> None:
    """All that the index names is there, and is what was written."""
    index = index_of(store)
    for kept in [*index.checkpoints, *([index.best] if index.best else [])]:
        for pieces in read(store, RUN, kept)[1].values():
            for _ in pieces:
                pass


def restored(store: Store) -> tuple[Restored | None, list[tuple[int, str]]]:
    """What is restored, and by step what was damaged."""
    damaged: list[tuple[int, str]] = []
    found = restore(store, RUN, index_of(store), lambda kept, why: damaged.append((kept.step, why)))
    return found, damaged


# --- publishing -------------------------------------------------------------------------------


def test_what_was_taken_is_restored(store: Store) -> None:
    """Tensors, values and facts come back as they were, from a directory and from S3."""
    with running(store) as run:
        run.publish(3)
        run.publish(7, score=0.5)
    found, damaged = restored(store)
    assert not damaged
    assert found is not None
    assert found.kept.step == 7
    assert found.manifest.values == {"at": 7}
    assert found.manifest.lease_epoch == 1
    assert {name: getattr(found.manifest, name) for name in CheckpointInfo._fields} == facts(
        7, 0.5
    )._asdict()
    assert found.tensors.keys() == state(7).keys()
    for name, tensor in state(7).items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_the_order_of_publishing(tmp_path: Path) -> None:
    """Files, their manifest, a check of both, events, the index; only then an older one goes."""
    store, order = Watched(tmp_path), list[tuple[str, str]]()
    store.after = lambda operation, key: order.append((operation, key))
    with running(store, keep=1, store_events=lambda: order.append(("events", ""))) as run:
        run.publish(1)
        order.clear()
        run.publish(2)
    new, old = "checkpoints/2-1", "checkpoints/1-1"
    assert order == [
        ("upload", f"{new}/model.safetensors"),
        ("upload", f"{new}/state.safetensors"),
        ("put", f"{new}/manifest.json"),
        ("get", f"{new}/manifest.json"),
        ("read", f"{new}/model.safetensors"),
        ("read", f"{new}/state.safetensors"),
        ("events", ""),
        ("get", "latest.json"),  # a directory's part of a compare-and-swap
        ("swap", "latest.json"),
        ("delete", f"{old}/manifest.json"),
        ("delete", f"{old}/state.safetensors"),
        ("delete", f"{old}/model.safetensors"),
    ]


def test_the_index_names_only_what_is_whole(tmp_path: Path) -> None:
    """After every single operation all that the index names is there, and verified."""
    store, plain = Watched(tmp_path), DirectoryStore(tmp_path)
    looks = 0

    def look(operation: str, _: str) -> None:
        nonlocal looks
        if operation not in ("get", "read"):
            assert_whole(plain)
            looks += 1

    with running(store, keep=1) as run:
        store.after = look
        for step, score in enumerate([3.0, 1.0, 2.0, None, 0.5], 1):
            run.publish(step, score)
            run.publish(step, score)  # a state may be taken twice at one step
    assert looks > 20
    assert folders(plain) == index_of(plain).named()


@pytest.mark.slow
def test_a_process_that_dies_anywhere_leaves_a_whole_run(tmp_path: Path) -> None:
    """Cut off before or after any operation of a publish, the run has the old state or the new.

    The next process publishes over whatever was left, and nothing that counts is lost.
    """
    done, count = False, 0
    while not done:
        store, plain = Watched(tmp_path / str(count)), DirectoryStore(tmp_path / str(count))
        with running(store, keep=1) as run:
            run.publish(1)
            left = count

            def die(_: str, __: str) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Forbidden("as good as dead")

            store.before = store.after = die
            run.take(2)
            done = run.writer.settle(600)
        assert_whole(plain)
        found, _ = restored(plain)
        assert found is not None
        assert found.manifest.values == {"at": found.kept.step}
        with running(plain, keep=1) as run:
            run.publish(2)
        assert steps(plain) == [2]
        assert_whole(plain)
        count += 1
    assert count > 20  # two for each of the operations


def test_a_store_that_stands_still_stalls_no_one(tmp_path: Path) -> None:
    """While one is under way, one waits and the newest replaces it; training goes on."""
    store, go = Watched(tmp_path), threading.Event()
    store.before = lambda *_: go.wait(600)
    go.set()
    with running(store, size=100) as run:
        go.clear()
        for step in range(1, 31):
            run.take(step)
            if step == 1:  # let it leave
                until(lambda: run.writer._waiting is None, pause=0.001)
        assert run.saved == []
        assert not run.writer.settle(0.1)
        go.set()
        assert run.writer.settle(600)
        assert run.saved == [1, 30]
        assert run.writer.replaced == 28
    assert steps(store) == [30, 1]
    found, _ = restored(store)
    assert found is not None
    assert torch.equal(found.tensors["model.weight"], state(30, 100)["model.weight"])


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_memory_is_bounded(tmp_path: Path) -> None:
    """However often a state is taken while the store stands still, memory stays what it was."""
    store, go = Watched(tmp_path), threading.Event()
    store.before = lambda *_: go.wait(600)
    go.set()
    with running(store, size=4_000_000) as run:  # 36 MB
        go.clear()
        big = state(1, 4_000_000)
        run.writer.take(big, {}, facts(1))
        before = resident()
        for step in range(2, 12):
            run.writer.take(big, {}, facts(step))
        assert resident() - before < 18e6
        go.set()


def test_closing_leaves_what_waits(tmp_path: Path) -> None:
    """At the end what is under way lands; what waits does not leave any more."""
    store, go = Watched(tmp_path), threading.Event()
    store.before = lambda *_: go.wait(600)
    go.set()
    run = Run(store)
    go.clear()
    run.take(1)
    until(lambda: run.writer._waiting is None, pause=0.001)
    run.take(2)
    closing = threading.Thread(target=run.writer.close)
    closing.start()
    until(lambda: run.writer._closing)
    go.set()
    closing.join(600)
    assert run.saved == [1]
    assert folders(store) == {"checkpoints/1-1"}


# --- a store that fails -----------------------------------------------------------------------


def test_an_outage_is_survived(tmp_path: Path) -> None:
    """A checkpoint that meets a store out of reach lands when it is back."""
    store, down = Watched(tmp_path), threading.Event()

    def fail(operation: str, _: str) -> None:
        if down.is_set():
            raise Unavailable(f"no {operation}")

    with running(store) as run:
        store.before = fail
        down.set()
        run.take(1)
        assert not run.writer.settle(0.7)
        assert run.writer.failure is None
        down.clear()
        assert run.writer.settle(600)
        assert run.saved == [1]
    assert_whole(store)


def test_an_outage_past_the_bound_ends_it(tmp_path: Path) -> None:
    """Out of reach for longer than the spec bears is a failure, and the older one is still there.

    Newer checkpoints on the way do not put the end off.
    """
    store = Watched(tmp_path)

    def fail(operation: str, _: str) -> None:
        raise Unavailable(f"no {operation}")

    with running(store, offline=1.0) as run:
        run.publish(1)
        store.before = fail
        begun, step = time.monotonic(), 1

        def failed() -> bool:
            nonlocal step
            step += 1
            run.take(step)
            return run.writer.failure is not None

        until(failed, pause=0.05)
        assert isinstance(run.writer.failure, Unavailable)
        assert time.monotonic() - begun >= 1.0
        assert not run.writer.settle(5)  # does not hang
        run.take(step + 1)  # nor does training, until it looks
        store.before = nothing
    assert steps(store) == [1]
    assert_whole(store)


def test_what_the_store_damages_never_counts(tmp_path: Path) -> None:
    """A checkpoint that reads back other than written is uploaded again, and not named before."""
    store, damaged = Watched(tmp_path), 0

    def flip(operation: str, key: str) -> None:
        nonlocal damaged
        if operation == "upload" and key.endswith("state.safetensors") and damaged < 1:
            damaged += 1
            path = tmp_path / RUN / key
            data = bytearray(path.read_bytes())
            data[-1] ^= 4
            path.write_bytes(data)

    with running(store, keep=1) as run:
        run.publish(1)
        store.after = flip
        run.take(2)
        assert not run.writer.settle(0.3)
        assert steps(store) == [1]
        assert run.writer.settle(600)
    assert damaged == 1
    assert steps(store) == [2]
    assert_whole(store)


def test_wrong_credentials_end_it_at_once(tmp_path: Path) -> None:
    """Forbidden is not waited for."""
    store = Watched(tmp_path)

    def forbid(_: str, __: str) -> None:
        raise Forbidden("403")

    with running(store) as run:
        store.before = forbid
        run.take(1)
        assert not run.writer.settle(5)
        assert isinstance(run.writer.failure, Forbidden)


def test_events_come_before_the_index(tmp_path: Path) -> None:
    """While events cannot be stored no checkpoint counts that comes after them."""
    store, down = DirectoryStore(tmp_path), threading.Event()
    down.set()

    def store_events() -> None:
        if down.is_set():
            raise Unavailable("events wait")

    with running(store, store_events=store_events) as run:
        run.take(1)
        assert not run.writer.settle(0.3)
        assert steps(store) == []
        down.clear()
        assert run.writer.settle(600)
        assert steps(store) == [1]


def test_a_fenced_process_neither_publishes_nor_deletes(tmp_path: Path) -> None:
    """Once another has the run, a checkpoint of this process does not count, nor replace one."""
    store = DirectoryStore(tmp_path)
    with running(store, keep=1) as zombie:
        zombie.publish(1)
        other = RunIndexStore(store, RUN, fenced=True)
        body = other.read()
        assert body is not None
        other.write(body.model_copy(update={"epoch": 2}))
        zombie.take(2)
        assert not zombie.writer.settle(600)
        assert isinstance(zombie.writer.failure, Fenced)
    assert index_of(store).epoch == 2
    assert steps(store) == [1]
    assert_whole(store)


# --- what is kept -----------------------------------------------------------------------------

scores = st.lists(st.none() | st.integers(0, 4).map(float), min_size=1, max_size=7)


@settings(max_examples=8, deadline=None)
@given(scores, st.integers(1, 3))
def test_the_newest_and_the_best_are_kept(found: list[float | None], keep: int) -> None:
    """The last few, and the first of the best ones; of all others nothing is left."""
    with tempfile.TemporaryDirectory() as folder:
        store = DirectoryStore(Path(folder))
        with running(store, keep=keep) as run:
            for step, score in enumerate(found, 1):
                run.publish(step, score)
        index = index_of(store)
        assert [kept.step for kept in index.checkpoints] == [*range(len(found), 0, -1)][:keep]
        scored = [(score, step) for step, score in enumerate(found, 1) if score is not None]
        assert (index.best and (index.best.score, index.best.step)) == min(scored, default=None)
        assert folders(store) == index.named()
        assert_whole(store)


@pytest.mark.parametrize("found", [[3.0, 1.0, 2.0], [None, 1.0, None], [3.0, 2.0, 1.0, 2.0, 3.0]])
def test_the_best_is_stored_though_newer_ones_come(
    tmp_path: Path, found: list[float | None]
) -> None:
    """Where snapshots come faster than the store takes them, others are left out."""
    store, down = DirectoryStore(tmp_path), threading.Event()
    down.set()

    def store_events() -> None:
        if down.is_set():
            raise Unavailable("events wait")

    with running(store, store_events=store_events) as run:
        for step, score in enumerate(found, 1):
            run.take(step, score)
        down.clear()
        assert run.writer.settle(600)
    index = index_of(store)
    assert index.best is not None
    assert index.best.score == 1.0
    assert index.checkpoints[0].step == len(found)


def test_a_deletion_that_fails_is_done_later(tmp_path: Path) -> None:
    """What could not be deleted does not undo a checkpoint, and goes with the next one."""
    store, failing = Watched(tmp_path), True

    def fail(operation: str, _: str) -> None:
        if operation == "delete" and failing:
            raise Unavailable("no delete")

    store.before = fail
    with running(store, keep=1) as run:
        run.publish(1)
        run.publish(2)
        assert steps(store) == [2]
        assert folders(store) == {"checkpoints/1-1", "checkpoints/2-1"}
        failing = False
        run.publish(3)
    assert run.saved == [1, 2, 3]
    assert folders(store) == {"checkpoints/3-1"}


# --- reading ----------------------------------------------------------------------------------


def published(store: Store, *at: int, keep: int = 3) -> None:
    with running(store, keep=keep) as run:
        for step in at:
            run.publish(step)


def test_nothing_to_restore(tmp_path: Path) -> None:
    """A run without a checkpoint begins anew, and that is not an error."""
    store = DirectoryStore(tmp_path)
    published(store)
    assert restored(store) == (None, [])


FILES = ["model.safetensors", "state.safetensors", "manifest.json"]
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "gone": lambda _: None,
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_damage_falls_back(tmp_path: Path, file: str, how: str) -> None:
    """If the newest is damaged in any way, the one before is restored, and the damage named."""
    store = DirectoryStore(tmp_path)
    published(store, 1, 2)
    path = tmp_path / RUN / "checkpoints/2-1" / file
    data = DAMAGES[how](path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    found, damaged = restored(store)
    assert found is not None
    assert found.kept.step == 1
    assert torch.equal(found.tensors["model.weight"], state(1)["model.weight"])
    ((step, why),) = damaged
    assert step == 2
    assert f"checkpoints/2-1/{file}" in why


def test_all_damaged(tmp_path: Path) -> None:
    """If none is intact, an error names them all: never a start from scratch."""
    store = DirectoryStore(tmp_path)
    published(store, 1, 2)
    for step in (1, 2):
        (tmp_path / RUN / f"checkpoints/{step}-1/model.safetensors").write_bytes(b"")
    with pytest.raises(Damaged, match=r"no checkpoint .* tried checkpoints/2-1, checkpoints/1-1"):
        restored(store)


def test_the_best_is_the_last_resort(tmp_path: Path) -> None:
    """A best one that is older than those kept is restored if they are damaged."""
    store = DirectoryStore(tmp_path)
    with running(store, keep=1) as run:
        run.publish(1, score=0.1)
        run.publish(2, score=0.2)
    (tmp_path / RUN / "checkpoints/2-1/state.safetensors").unlink()
    found, damaged = restored(store)
    assert found is not None
    assert (found.kept.step, [step for step, _ in damaged]) == (1, [2])


def test_a_store_out_of_reach_is_not_damage(tmp_path: Path) -> None:
    """An outage while restoring raises Unavailable: no older state is taken for the newest."""
    store = Watched(tmp_path)
    published(store, 1, 2)

    def fail(operation: str, _: str) -> None:
        if operation == "read":
            raise Unavailable("down")

    store.before = fail
    with pytest.raises(Unavailable):
        restored(store)


@pytest.mark.parametrize("file", FILES)
def test_any_flipped_bit_is_found(tmp_path: Path, file: str) -> None:
    """Bits all over a checkpoint, flipped one at a time: none goes unnoticed."""
    store = DirectoryStore(tmp_path)
    published(store, 1)
    path = tmp_path / RUN / "checkpoints/1-1" / file
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 17):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(Damaged):
            restored(store)


READER = """
    import hashlib, sys
    from pathlib import Path
    from job.checkpoint.restore import restore
    from job.record.run_index import RunIndexStore
    from job.store.directory import DirectoryStore

    store = DirectoryStore(Path(sys.argv[1]))
    index = RunIndexStore(store, "name/run", fenced=False).read()
    found = restore(store, "name/run", index, print)
    digest = hashlib.sha256()
    for name, tensor in sorted(found.tensors.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    print(found.kept.step, found.manifest.values["at"], digest.hexdigest())
"""


@pytest.mark.slow
def test_many_may_read_what_one_has_saved(tmp_path: Path) -> None:
    """Two processes and four threads restore the same state, without a lease, changing nothing."""
    store = DirectoryStore(tmp_path)
    published(store, 1, 2)
    before = {entry.key: store.get(entry.key) for entry in store.list()}
    command = [sys.executable, "-c", textwrap.dedent(READER), store.url]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: restored(DirectoryStore(tmp_path))[0], range(4)))
    digest = hashlib.sha256()
    for name, tensor in sorted(state(2).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    for reader in readers:
        assert reader.communicate(timeout=600)[0] == f"2 2 {digest.hexdigest()}\n"
    for one in found:
        assert one is not None
        assert one.kept.step == 2
        assert all(torch.equal(one.tensors[name], t) for name, t in state(2).items())
    assert {entry.key: store.get(entry.key) for entry in store.list()} == before


def test_files_of_another_checkpoint_are_not_taken_for_these(tmp_path: Path) -> None:
    """An intact checkpoint in the place of another is damage: the index names the manifest."""
    store = DirectoryStore(tmp_path)
    published(store, 1, 2)
    for file in FILES:
        source = tmp_path / RUN / "checkpoints/1-1" / file
        (tmp_path / RUN / "checkpoints/2-1" / file).write_bytes(source.read_bytes())
    found, damaged = restored(store)
    assert found is not None
    assert (found.kept.step, [step for step, _ in damaged]) == (1, [2])


def test_a_kept_checkpoint_is_named_by_its_content() -> None:
    """What the index says of a checkpoint survives JSON."""
    kept = Kept(folder="checkpoints/1-1", step=1, manifest="0" * 64, score=0.1)
    index = RunIndex(epoch=2, spec_hash="h", checkpoints=[kept], best=kept, fences={1: 9})
    assert RunIndex.model_validate_json(index.model_dump_json()) == index


def test_a_process_that_is_nicer_still_publishes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the thread may not set its niceness, checkpoints are published without."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("job.checkpoint.writer.os.setpriority", refuse)
    with running(DirectoryStore(tmp_path)) as run:
        run.publish(1)
    assert run.saved == [1]


@pytest.mark.slow
def test_saved_once_loaded_by_all(tmp_path: Path) -> None:
    """Any number of processes load, at the same time and without the lease, the one state that
    the holder of the lease has saved: what ranks of one training need."""
    store = DirectoryStore(tmp_path)
    with running(store) as run:
        run.publish(7)
    code = f"""
        import hashlib, sys
        from pathlib import Path
        from job.checkpoint.restore import restore
        from job.record.run_index import RunIndexStore
        from job.store.directory import DirectoryStore

        store = DirectoryStore(Path({str(tmp_path)!r}))
        found = restore(store, {RUN!r}, RunIndexStore(store, {RUN!r}, False).read(), print)
        whole = sorted(found.tensors.items())
        print(hashlib.sha256(b"".join(t.numpy().tobytes() for _, t in whole)).hexdigest())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with ThreadPoolExecutor(2) as pool:
        ranks = [
            pool.submit(subprocess.run, command, capture_output=True, text=True) for _ in range(2)
        ]
    printed = {rank.result().stdout for rank in ranks}
    expected = b"".join(t.numpy().tobytes() for _, t in sorted(state(7).items()))
    assert printed == {hashlib.sha256(expected).hexdigest() + "\n"}
    assert index_of(store).epoch == 1
