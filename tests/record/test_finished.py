"""A finished run that is started again: of its end it writes what is missing, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.record.claim import finished_code
from job.record.document import seal
from job.record.result import Result
from job.record.run_index import RunIndex, RunIndexStore
from job.spec.read import read_spec
from job.store.base import Bytes
from job.store.directory import DirectoryStore
from tests.support.tiny_job import write

RUN = "small/r"


@pytest.mark.parametrize("there", [None, b"damaged", b"whole"])
def test_only_what_is_missing_is_written(
    tmp_path: Path, there: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`result.json` is written anew if it is gone or damaged; else a start writes nothing."""
    store, spec = DirectoryStore(tmp_path / "store"), read_spec(write(tmp_path))
    result = Result(reason="succeeded", exit_code=0, spec_hash=spec.content_hash())
    whole = seal(result.body())
    index = RunIndex(epoch=1, spec_hash=spec.content_hash(), fences={})
    RunIndexStore(store, RUN, fenced=False).write(index.model_copy(update={"finished": result}))
    store.put(f"{RUN}/spec.json", spec.canonical().encode())
    if there is not None:
        store.put(Result.key(RUN), whole if there == b"whole" else there)
    written: list[str] = []
    put = DirectoryStore.put

    def noted(self: DirectoryStore, key: str, data: Bytes) -> str:
        written.append(key)
        return put(self, key, data)

    monkeypatch.setattr(DirectoryStore, "put", noted)
    assert finished_code(store, RUN, spec) == 0
    assert written == ([] if there == b"whole" else [Result.key(RUN)])
    assert store.get(Result.key(RUN)).data == whole
