"""The network: shapes, initialisation, and what each kind of head computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from job import spec
from job.model.built_in import BuiltIn
from job.model.encoders.lstm import Lstm
from job.model.heads import StepHead, WindowHead
from tests.support.nets import (
    BINARY,
    CLASSES,
    COUNTDOWN,
    FEATURES,
    MIXED,
    POINTERS,
    STEPS,
    TYPE,
    built_in,
    task,
)


def jade(tasks: list[spec.Task], **model: Any) -> BuiltIn:
    torch.manual_seed(0)
    section = {"hidden": 4, "projection": 5} | model
    return built_in(spec.Lstm.model_validate(section), tasks, STEPS, FEATURES)


def lstm_of(model: BuiltIn) -> nn.LSTM:
    encoder = model.trunk.encoder
    assert isinstance(encoder, Lstm)
    return encoder.lstm


def features(batch: int = 5) -> torch.Tensor:
    return torch.randn(batch, STEPS, FEATURES, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True])
def test_outputs_come_in_the_order_of_the_tasks(layers: int, both: bool) -> None:
    """A step task has outputs [B, T, O], a window task [B, O], in the order of the spec."""
    outputs = jade(MIXED, layers=layers, bidirectional=both)({"features": features()})
    assert [list(o.shape) for o in outputs] == [
        [5, task.outputs] if task.level == "window" else [5, STEPS, task.outputs] for task in MIXED
    ]


def test_number_of_parameters() -> None:
    """Trunk 2 · 4H (F + H + 2), a step head 2H + 1 per output, a window head (2H + 1) P plus
    P + 1 per output."""
    counted = {
        name: sum(p.numel() for p in room.parameters())
        for name, room in [("trunk", jade(MIXED).trunk), ("heads", jade(MIXED).by_task)]
    }
    h, p = 4, 5
    step = sum(t.outputs for t in (COUNTDOWN, CLASSES, BINARY)) * (2 * h + 1)
    window = 2 * (2 * h + 1) * p + (TYPE.outputs + POINTERS.outputs) * (p + 1)
    assert counted == {"trunk": 2 * 4 * h * (FEATURES + h + 2), "heads": step + window}


def test_every_head_has_parameters_of_its_own() -> None:
    """No parameter belongs to two heads, or to a head and the trunk."""
    model = jade([TYPE, task("again", "window", "cross_entropy", 3), COUNTDOWN])
    rooms = [model.trunk, *model.heads]
    held = [id(p) for room in rooms for p in room.parameters()]
    assert len(held) == len(set(held)) == len(list(model.parameters()))


def test_any_task_name_will_do() -> None:
    """Tasks may be named like attributes of a module."""
    names = ["type", "forward", "parameters", "training", "heads"]
    model = jade([task(name, "step", "mse") for name in names])
    assert len(model({"features": features()})) == len(names)
    assert list(model.by_task) == [f"task_{name}" for name in names]


# --- initialisation ---------------------------------------------------------------------------


def test_orthogonal_gates() -> None:
    """Each gate's input and recurrent matrix is orthogonal, the forget gates' biases sum to 1 and
    all other biases are 0, in every layer and direction."""
    model = jade(MIXED, layers=2)
    gates = 0
    for name, parameter in lstm_of(model).named_parameters():
        for i, gate in enumerate(parameter.detach().split(4)):
            if name.startswith("weight"):
                small = gate @ gate.T if gate.shape[0] <= gate.shape[1] else gate.T @ gate
                torch.testing.assert_close(small, torch.eye(len(small)))
                gates += 1
            else:
                forget = i == 1 and name.startswith("bias_ih")  # torch's order: i, f, g, o
                assert (gate == (1.0 if forget else 0.0)).all(), name
    assert gates == 2 * 2 * 2 * 4


def test_default_initialisation_is_torchs() -> None:
    """With init.lstm `default` the LSTM starts as torch starts one."""
    model = jade(MIXED, init={"lstm": "default"})
    torch.manual_seed(0)
    theirs = nn.LSTM(FEATURES, 4, batch_first=True, bidirectional=True)
    assert all(map(torch.equal, lstm_of(model).parameters(), theirs.parameters()))


# --- heads ------------------------------------------------------------------------------------


def test_step_heads_are_linear_maps_of_z() -> None:
    """Without dropout each step head's output is its own linear map of z at that step."""
    model = jade(MIXED).eval()
    z = model.represent({"features": features()})
    for head, output in zip(model.heads, model({"features": features()}), strict=True):
        if isinstance(head, StepHead):
            torch.testing.assert_close(output, head.output(z))


def test_window_heads_read_the_mean_over_time() -> None:
    """Without dropout a window head's output is its projection and map of the mean of z."""
    model = jade(MIXED).eval()
    pooled = model.represent({"features": features()}).mean(1)
    for head, output in zip(model.heads, model({"features": features()}), strict=True):
        if isinstance(head, WindowHead):
            projected = torch.relu(head.projection[0](pooled))
            torch.testing.assert_close(output, head.output(projected))


def test_z_reaches_both_ways_in_time() -> None:
    """A bidirectional trunk shows every step the whole window, a causal one only its past."""
    for both in (True, False):
        trunk = jade(MIXED, bidirectional=both).eval().trunk
        x = features(1).requires_grad_()
        (seen,) = torch.autograd.grad(trunk({"features": x})[0, 2].sum(), x)
        reached = seen[0].abs().sum(1) > 0
        assert reached.tolist() == [True] * 3 + [both] * (STEPS - 3)


def test_step_dropout_is_one_mask_over_time() -> None:
    """A step head drops the same features at every step of a sample, others in another sample, and
    another head drops others again; what is kept is scaled so that the mean stays."""
    model = jade([COUNTDOWN, BINARY], dropout={"input": 0.0, "heads": 0.5})
    for head in model.step_heads:
        head.output.weight.data.fill_(1.0)
        head.output.bias.data.zero_()
    torch.manual_seed(0)
    rows = torch.stack([head.rows(4000) for head in model.step_heads])
    assert set(rows.unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(rows.mean((1, 2)), torch.ones(2, 8), rtol=0.1, atol=0)
    assert (rows[0] != rows[1]).any(2).float().mean() > 0.9
    outputs, used = model.read_steps(torch.ones(4, STEPS, 8))
    assert torch.equal(outputs, used.sum(2)[:, None].expand(-1, STEPS, -1))


def test_evaluation_draws_nothing() -> None:
    """In evaluation mode outputs are a function of the features, and no random number is drawn."""
    model = jade(MIXED).eval()
    state = torch.get_rng_state()
    first, second = model({"features": features()}), model({"features": features()})
    assert all(map(torch.equal, first, second))
    assert torch.equal(torch.get_rng_state(), state)


def test_training_mode_drops_at_both_ends() -> None:
    """In training mode z differs from draw to draw by the input's dropout, and both kinds of head
    by their own."""
    model = jade([TYPE, COUNTDOWN], dropout={"input": 0.0, "heads": 0.5})
    inputs = {"features": features()}
    assert torch.equal(model.represent(inputs), model.represent(inputs))
    for first, second in zip(model(inputs), model(inputs), strict=True):
        assert not torch.equal(first, second)
    model = jade([TYPE, COUNTDOWN], dropout={"input": 0.5, "heads": 0.0})
    assert not torch.equal(model.represent(inputs), model.represent(inputs))
