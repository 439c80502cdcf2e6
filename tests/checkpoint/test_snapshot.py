"""The copy of a state is in the bytes that safetensors would have written, and costs one memcpy."""

from __future__ import annotations

import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from job.checkpoint.snapshot import TYPES, Snapshot, file_of
from job.record.layout import MODEL, STATE


def state() -> dict[str, Tensor]:
    """Every type that a state may hold, no elements, no dimensions, and strides."""
    torch.manual_seed(0)
    return {
        "model.weight": torch.randn(5, 3),
        "model.transposed": torch.randn(4, 6).T,
        "losses.0.scale": torch.randn((), dtype=torch.float64),
        "optimizer.0.step": torch.tensor(7.0),
        "optimizer.0.exp_avg": torch.randn(5, 3, requires_grad=True),
        "balancer.count": torch.tensor(3),
        "balancer.none": torch.empty(0),
        "balancer.no_rows": torch.empty(0, 4, dtype=torch.int32),
        "balancer.seen": torch.tensor([True, False, True]),
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "generator.cpu": torch.get_rng_state(),
        'ünï-"quoted"': torch.ones(1),
    }


def written(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    """What safetensors itself makes of a state."""
    parts: dict[str, dict[str, Tensor]] = {MODEL: {}, STATE: {}}
    for name, tensor in tensors.items():
        parts[file_of(name)][name] = tensor.detach().contiguous().clone()
    return {file: safetensors.torch.save(part) for file, part in parts.items()}


def found(snapshot: Snapshot) -> dict[str, bytes]:
    return {file: bytes(data) for file, data in snapshot.files().items()}


def test_the_bytes_are_those_of_safetensors() -> None:
    """Both files are, byte for byte, what safetensors writes, and load as the same tensors."""
    tensors = state()
    snapshot = Snapshot({name: torch.zeros_like(t) for name, t in tensors.items()})
    snapshot.take(tensors, {})
    assert found(snapshot) == written(tensors)
    loaded = {
        n: t for data in found(snapshot).values() for n, t in safetensors.torch.load(data).items()
    }
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor.detach(), rtol=0, atol=0)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, st.tuples(st.sampled_from([*TYPES]), shapes), max_size=8))
def test_any_state_is_laid_out_as_safetensors_does(
    kinds: dict[str, tuple[torch.dtype, tuple[int, ...]]],
) -> None:
    """Whatever names, types and shapes a state has, its files are those of safetensors."""
    tensors = {name: torch.ones(shape, dtype=dtype) for name, (dtype, shape) in kinds.items()}
    assert found(Snapshot(tensors)) == written(tensors)


def test_a_prediction_needs_the_model_file_alone() -> None:
    """Parameters and transforms are in one file, what only training needs in the other."""
    files = written(state())
    assert set(safetensors.torch.load(files[MODEL])) == {
        "model.weight",
        "model.transposed",
        "losses.0.scale",
    }
    model = found(Snapshot(state()))[MODEL]
    assert model == files[MODEL]


def test_it_is_a_copy() -> None:
    """Training on after a snapshot changes nothing in it."""
    parameter = torch.nn.Parameter(torch.randn(50))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    tensors = {"model.p": parameter.detach(), "optimizer.0.step": torch.tensor(0.0)}
    snapshot = Snapshot(tensors)
    snapshot.take(tensors, {})
    before = found(snapshot)
    parameter.sum().backward()
    optimizer.step()
    tensors["optimizer.0.step"] += 1
    assert found(snapshot) == before
    snapshot.take(tensors, {})
    assert found(snapshot) == written(tensors) != before


def test_a_second_one_uses_the_same_memory() -> None:
    """Taking another state allocates nothing: it goes where the first one was."""
    tensors = state()
    snapshot = Snapshot(tensors)
    places = {
        file: torch.frombuffer(d, dtype=torch.uint8).data_ptr()
        for file, d in snapshot.files().items()
    }
    snapshot.take({name: t.detach().clone() for name, t in tensors.items()}, {"step": 2})
    again = {
        file: torch.frombuffer(d, dtype=torch.uint8).data_ptr()
        for file, d in snapshot.files().items()
    }
    assert places == again
    assert snapshot.values == {"step": 2}
    assert snapshot.size == sum(len(d) for d in snapshot.files().values())
