"""Causes inside a network: planted in networks of one's own over real data, and their twins."""

from __future__ import annotations

import json
import math
from itertools import cycle
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from job.data.dataset import load
from job.diagnose.case import Finding, Mechanism
from job.diagnose.diagnose import diagnose
from job.diagnose.inside.batch_norms import batch_norms
from job.diagnose.inside.last_inputs import last_inputs
from job.diagnose.inside.modes import modes
from job.diagnose.inside.ranges import ranges
from job.diagnose.inside.relus import relus
from job.diagnose.inside.signals import signals
from job.diagnose.inside.twins import Twins, twin_layers
from job.diagnose.probe import probe, probe_inputs
from job.diagnose.reach import reach
from job.spec.read import parse_spec, with_digests
from job.train.trainer import Trainer
from tests.support.command import ROOT, here
from tests.support.network_problems import DATA, FAULTS, LINEAR, SOUND, OwnProblem, with_head
from tests.support.own_networks import SOUND as SMALL_NETWORKS
from tests.support.own_networks import place
from tests.support.tiny_job import Trained

INSIDE: set[Mechanism] = {
    "frozen_part",
    "evaluation_mode",
    "probabilities",
    "output_range",
    "dead_units",
    "constant_output",
    "batch_norm",
    "exploding",
    "vanishing",
    "initialization",
}
TRAIN = {"epochs": 1, "batch_size": 32, "threads": 1}
QUICK = {"softmax of one"}
"""Faults that take a second or two."""
TWINS = ["softmax twice", "tanh of logits", "relu of a standardized target", "tiny start"]
"""Faults whose repaired twins are no sound network that is tried besides."""


def inside(findings: list[Finding]) -> list[Finding]:
    """The findings on what goes on inside the network."""
    return [finding for finding in findings if finding.mechanism in INSIDE]


def training(problem: OwnProblem, folder: Path) -> Trainer:
    """The trainer of a problem, before its first step."""
    path = problem.write(folder)
    spec = with_digests(parse_spec(path.read_text(), str(path)), folder)
    return Trainer(*probe_inputs(spec, load(spec, folder)))


def test_the_causes_are_mechanisms() -> None:
    """Every cause inside a network is one of the diagnosis', and each has a planted fault."""
    assert set(get_args(Mechanism)) >= INSIDE
    assert {fault.mechanism for fault in FAULTS.values()} == INSIDE


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FAULTS]
)
def test_a_fault_is_named(name: str, tmp_path: Path) -> None:
    """Each fault is the first thing named, with numbers, or names, and what to do."""
    fault = FAULTS[name]
    found = fault.faulty.diagnose(tmp_path).findings
    assert found
    assert found[0].mechanism == fault.mechanism, found
    assert any(fault.says in f.evidence + f.remedy for f in inside(found)), found


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_its_repaired_twin_is_clean(name: str, tmp_path: Path) -> None:
    """What the remedy asks for leaves nothing to name."""
    assert inside(FAULTS[name].repaired.diagnose(tmp_path).findings) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), list(zip(SOUND, cycle(DATA), strict=False)))
def test_sound_networks_are_clean(name: str, data: str, tmp_path: Path) -> None:
    """ReLU, BatchNorm, Dropout, GELU, residuals, attention: nothing inside them is named."""
    assert inside(OwnProblem(SOUND[name], data).diagnose(tmp_path).findings) == []


@pytest.mark.parametrize("name", ["forward", pytest.param("conv", marks=pytest.mark.slow)])
def test_networks_with_and_without_z_are_diagnosed(name: str, tmp_path: Path) -> None:
    """z in parts, or no z at all: each is probed, and nothing inside named."""
    source, more = SMALL_NETWORKS[name]
    path = place(tmp_path, source, more)
    spec = with_digests(parse_spec(path.read_text(), str(path)), tmp_path)
    diagnosis = diagnose(spec, load(spec, tmp_path))
    assert inside(diagnosis.findings) == []
    for task in spec.task_names:
        missing = any(
            f"the outputs of {task} can" in each for each in diagnosis.before.not_measured
        )
        assert missing == (task not in diagnosis.before.reach)
    assert bool(diagnosis.before.not_measured) == (name == "forward")


def test_the_command_names_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The finding leads to a page of the repository, as text and as JSON."""
    path = FAULTS["softmax of one"].faulty.write(tmp_path)
    code, out, err = here(capsys, "diagnose", path)
    assert code == 7, err
    assert "docs/diagnosis/constant-output.md" in out
    code, out, _ = here(capsys, "diagnose", path, "--json")
    page, _, anchor = json.loads(out)["findings"][0]["page"].partition("#")
    assert f"## {anchor.replace('-', ' ').capitalize()}\n" in (ROOT / page).read_text("utf-8")


# --- the measurements ---------------------------------------------------------------------------


def test_looking_inside_changes_nothing(tmp_path: Path) -> None:
    """The steps of a probe are those of a run, for a network with BatchNorm and Dropout."""
    path = OwnProblem(SOUND["normed"], spec={"train": TRAIN}).write(tmp_path)
    spec = with_digests(parse_spec(path.read_text(), str(path)), tmp_path)
    data = load(spec, tmp_path)
    run = Trained(spec, data)
    run.run()
    probed = probe(Trainer(*probe_inputs(spec, data)))
    assert probed.steps
    for mine, its in zip(probed.steps, run.steps, strict=True):
        for task in spec.task_names:
            assert mine.tasks[task].loss == its.tasks[task].loss


def test_units_that_are_one_are_counted(tmp_path: Path) -> None:
    """A layer whose units have the same weights, 0 or not; with one unit apart it is none."""
    made = training(OwnProblem(SOUND["plain"]), tmp_path)
    assert twin_layers(made.model) == []
    first, second = (made.model.get_submodule(f"own.{name}") for name in ("first", "second"))
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    with torch.no_grad():
        first.weight[:] = torch.randn(1, first.weight.shape[1])
        second.weight.zero_()
    assert twin_layers(made.model) == [Twins("first", 64, False), Twins("second", 32, True)]
    with torch.no_grad():
        first.weight[3] += 0.1
    second.weight.requires_grad_(False)
    assert twin_layers(made.model) == []


def test_units_that_never_fire_are_counted(tmp_path: Path) -> None:
    """The share of dead units is what one counts by hand, wherever the ReLU is computed."""
    made = training(OwnProblem(SOUND["plain"]), tmp_path)
    first = made.model.get_submodule("own.first")
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.bias[:48] = -1000.0
    before = {relu.behind: relu.dead for relu in relus(made)}
    assert before["first"] == 0.75


def test_ranges_are_those_of_the_last_function(tmp_path: Path) -> None:
    """A sigmoid times five reaches from 0 to 5, a softplus up from 0, a linear map everywhere."""
    for last, low, high in (
        (f"5 * {LINEAR}.sigmoid()", 0.0, 5.0),
        (f"F.softplus({LINEAR})", 0.0, math.inf),
        (LINEAR, -math.inf, math.inf),
    ):
        found = ranges(training(OwnProblem(with_head(last)), tmp_path / str(high + low)))
        for each in found.values():
            assert each.low == pytest.approx(low, abs=1e-3)
            assert each.high == pytest.approx(high)
            assert not each.sums_to_one


def test_a_network_that_minds_wild_weights_has_no_limits(tmp_path: Path) -> None:
    """Code that fails at random parameters far off does not end the diagnosis."""
    careful = """
    def head(self, task, z, inputs):
        y = self.heads[f"of_{task}"](z)
        if y.abs().max() > 30:
            raise ValueError("too large")
        return y
"""
    found = ranges(training(OwnProblem(SOUND["plain"] + careful), tmp_path))
    assert {(each.low, each.high) for each in found.values()} == {(-math.inf, math.inf)}


def test_a_signal_is_the_deviation_over_samples(tmp_path: Path) -> None:
    """Size and signal of a layer are what one computes of its outputs, each gradient autograd's."""
    made = training(OwnProblem(SOUND["plain"]), tmp_path)
    x = made.data.train.inputs["features"][torch.arange(127) * len(made.data.train) // 127]
    scaled = made.model.scalings["features"](x).flatten(1)
    weight = made.model.get_submodule("own.first").weight
    bias = made.model.get_submodule("own.first").bias
    y = (scaled @ weight.T + bias).double()
    layer = signals(made).layers[0]
    assert layer.name == "first"
    assert layer.size == pytest.approx(y.square().mean().sqrt().item(), rel=1e-5)
    assert layer.signal == pytest.approx(y.var(0, correction=0).mean().sqrt().item(), rel=1e-5)
    assert set(layer.gradients) == {"kind", "ink"}


def test_memory_that_is_used_again_is_no_output(tmp_path: Path) -> None:
    """A layer makes a task's outputs only if they are its own, not if they come to lie where
    something that it made has lain."""
    source = """
    def layers(self, width, shape):
        self.first = nn.Linear(width, 32)
        self.spare = nn.ModuleList(nn.Softplus() for _ in range(50))

    def trunk(self, inputs):
        return torch.relu(self.first(inputs["features"].flatten(1)))

    def head(self, task, z, inputs):
        made = [layer(z[:, :1]) for layer in self.spare]
        del made
        return self.heads[f"of_{task}"](z)
"""
    found = signals(training(OwnProblem(source), tmp_path)).layers
    feeds = {layer.name: layer.feeds for layer in found}
    assert all(feeds[f"spare.{i}"] for i in range(50))
    assert not feeds["heads.of_ink"]


def test_the_reach_of_an_own_head_is_that_of_its_linear_map(tmp_path: Path) -> None:
    """It is lr · steps · the 1-norm of what the map reads, as of a built-in head."""
    made = training(OwnProblem(SOUND["plain"]), tmp_path)
    made.model.eval()
    inputs = made.data.train.inputs
    z = made.model.represent(inputs)
    assert isinstance(z, torch.Tensor)
    _, reads = last_inputs(made.model, inputs)
    assert all(read is not None and torch.equal(read, z) for read in reads)
    level = reach(made)["ink"].level / (made.spec.optimizer.lr * made.total_steps)
    assert level == pytest.approx(1 + z.mean(0).abs().sum().item(), rel=1e-4)


def test_batch_norms_are_compared_in_both_modes(tmp_path: Path) -> None:
    """The gap grows as batches get smaller; a network without a BatchNorm has none."""
    gaps = []
    for size in (64, 8, 2):
        spec = {"train": TRAIN | {"batch_size": size}}
        made = training(OwnProblem(SOUND["normed"], spec=spec), tmp_path / str(size))
        made.run(lambda event: None, lambda: None, lambda: False)
        gaps.append(batch_norms(made).apart["kind"])
    assert gaps == sorted(gaps)
    assert batch_norms(training(OwnProblem(SOUND["plain"]), tmp_path / "none")).apart == {}


def test_a_frozen_backbone_may_rest(tmp_path: Path) -> None:
    """Layers that rest because the spec freezes all of them are not taken for a mix-up."""
    problem = OwnProblem(SOUND["normed"])
    problem.spec = {"model": {"kind": "python", "file": "network.py", "freeze": ["own.encoder.*"]}}
    found = training(problem, tmp_path)
    assert modes(found).still == []
