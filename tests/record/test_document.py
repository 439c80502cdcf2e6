"""Damage to a stored document shows, and nobody replaces a version that he has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.record.document import Damaged, Document, Fenced, seal, unseal
from job.store import Store, Unavailable
from job.store.directory import DirectoryStore

text = st.text(st.characters(), max_size=8)  # lone surrogates too: error texts hold them
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
values = st.recursive(
    scalars.filter(lambda v: v not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(text.filter(lambda key: key != "sha256"), values, max_size=4)


@given(bodies)
def test_what_is_sealed_is_unsealed(body: dict[str, Any]) -> None:
    """A sealed body comes back equal, and the bytes are plain JSON that names their SHA-256."""
    assert unseal(seal(body), "here") == body
    assert len(json.loads(seal(body))["sha256"]) == 64


@given(bodies, st.data())
def test_any_flipped_bit_is_found(body: dict[str, Any], data: st.DataObject) -> None:
    """Whichever single bit of a document is not as it was written, reading it says so."""
    sealed = bytearray(seal(body))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged, match=r"^here is damaged"):
        unseal(bytes(sealed), "here")


def test_every_bit_of_one_document() -> None:
    """The same for all bits of a document like those of a run, one after another."""
    whole = seal({"schema": 1, "epoch": 3, "score": 0.125, "note": "ü", "files": {"a": [1, None]}})
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            unseal(bytes(damaged), "here")


@given(bodies, st.data())
def test_a_cut_or_longer_document_is_damaged(body: dict[str, Any], data: st.DataObject) -> None:
    """A document that was cut off anywhere, or has a byte more, is damaged."""
    whole = seal(body)
    for other in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + b"\n"):
        with pytest.raises(Damaged):
            unseal(other, "here")


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b'{"sha256": 1}', b"\xff"])
def test_what_was_never_sealed_is_damaged(data: bytes) -> None:
    """Other JSON, or none, is damage and not a crash."""
    with pytest.raises(Damaged):
        unseal(data, "here")


def test_a_number_that_json_lacks_is_refused() -> None:
    """No document holds NaN: a reader in another language could not read it."""
    with pytest.raises(ValueError, match="JSON compliant"):
        seal({"loss": float("nan")})


def test_only_who_read_the_last_version_replaces_it(store: Store) -> None:
    """Of two that have read the same version one writes; the other is fenced, until it reads."""
    one, two = Document(store, "d"), Document(store, "d")
    assert one.read() is None
    assert two.read() is None
    one.write({"by": 1})
    with pytest.raises(Fenced, match="another process has written d"):
        two.write({"by": 2})
    assert two.read() == one.read()
    two.write({"by": 2})
    with pytest.raises(Fenced):
        one.write({"by": 1})
    found = Document(store, "d").read()
    assert found is not None
    assert found["by"] == 2


def test_equal_bodies_of_two_writers_differ(tmp_path: Path) -> None:
    """Who writes what another has written is fenced too: each version has a nonce."""
    store = DirectoryStore(tmp_path)
    one, two = Document(store, "d"), Document(store, "d")
    one.write({"by": "anyone"})
    with pytest.raises(Fenced):
        two.write({"by": "anyone"})


def test_unfenced_replaces_whatever_is_there(tmp_path: Path) -> None:
    """Without fencing the last one wins, unseen."""
    store = DirectoryStore(tmp_path)
    one, two = Document(store, "d", fenced=False), Document(store, "d", fenced=False)
    one.write({"by": 1})
    two.write({"by": 2})
    one.write({"by": 1})
    found = two.read()
    assert found is not None
    assert found["by"] == 1


def test_a_damaged_version_can_be_replaced(tmp_path: Path) -> None:
    """Who has seen that a document is damaged may write it anew."""
    store = DirectoryStore(tmp_path)
    document = Document(store, "d")
    store.put("d", b"garbage")
    with pytest.raises(Damaged, match="/d is damaged"):
        document.read()
    document.write({"whole": True})
    assert Document(store, "d").read() is not None


class Deaf(DirectoryStore):
    """A store whose answer to a write gets lost, while `deaf`."""

    deaf = False

    def put_if_absent(self, key: str, data: Any) -> str:
        return self._answer(super().put_if_absent(key, data))

    def put_if_match(self, key: str, data: Any, etag: str) -> str:
        return self._answer(super().put_if_match(key, data, etag))

    def _answer(self, etag: str) -> str:
        if self.deaf:
            raise Unavailable("the answer was lost")
        return etag


@pytest.mark.parametrize("begun", [False, True])
def test_ones_own_write_without_an_answer_is_not_another_process(
    tmp_path: Path, begun: bool
) -> None:
    """A write that landed, its answer lost, does not fence off its own writer afterwards."""
    store = Deaf(tmp_path)
    document = Document(store, "d")
    if begun:
        document.write({"beat": 0})
    store.deaf = True
    for beat in (1, 2):
        with pytest.raises(Unavailable):
            document.write({"beat": beat})
    store.deaf = False
    document.write({"beat": 3})
    found = Document(store, "d").read()
    assert found is not None
    assert found["beat"] == 3


def test_another_process_is_noticed_after_a_lost_answer(tmp_path: Path) -> None:
    """Where another has written since the answer was lost, the first is fenced all the same."""
    store = Deaf(tmp_path)
    document, other = Document(store, "d"), Document(DirectoryStore(tmp_path), "d")
    store.deaf = True
    with pytest.raises(Unavailable):
        document.write({"beat": 1})
    store.deaf = False
    other.read()
    other.write({"by": "other"})
    with pytest.raises(Fenced):
        document.write({"beat": 2})
