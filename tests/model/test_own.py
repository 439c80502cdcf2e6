"""Networks of one's own: sound ones pass as they are, faulty ones are one line with a place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from job.data.dataset import load
from job.data.encoding.feature_stats import measure_features
from job.data.encoding.input_info import InputInfo
from job.errors import InputError
from job.model.own.code import OwnCode
from job.model.own.network import OwnForward, OwnNetwork, Task, build_own
from job.model.scaling import Scaling
from job.spec import Python
from job.spec.read import read_spec
from job.train.build.check_own import check_own
from job.train.build.network import build_network
from job.train.trainer import Trainer
from tests.support.own_networks import FAULTY, FORWARD, MLP, SOUND, place
from tests.support.warm_process import Nursery


def built(path: Path, seed: int = 0) -> OwnForward:
    """The network of a spec's file."""
    torch.manual_seed(seed)
    spec = read_spec(path)
    model = build_network(spec, load(spec, path.parent))
    assert isinstance(model, OwnForward)
    return model


def faults(path: Path) -> str:
    """The lines that say what is wrong with a network."""

    def check() -> None:
        spec = read_spec(path)
        check_own(spec, load(spec, path.parent))

    with pytest.raises(InputError) as caught:
        check()
    return str(caught.value)


@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_pass(tmp_path: Path, name: str) -> None:
    """A perceptron, a network with BatchNorm, dropout and a file beside, and one without a cut."""
    source, more = SOUND[name]
    path = place(tmp_path, source, more)
    spec = read_spec(path)
    check_own(spec, load(spec, tmp_path))
    model = built(path)
    assert isinstance(model, OwnNetwork) == (source is not FORWARD)
    outputs = model({"features": torch.randn(5, 6, 3)})
    assert [list(y.shape) for y in outputs] == [[5, 2], [5, 1], [5, 6, 1], [5, 6, 2]]


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_networks_are_one_line(tmp_path: Path, name: str) -> None:
    """Each fault names the user's file and line, what was found, the rule and the remedy."""
    source, line = FAULTY[name]
    found = faults(place(tmp_path, source, {"options": {"width": 6}} if "width" in source else {}))
    assert found == line


def test_a_fault_in_a_file_beside(tmp_path: Path) -> None:
    """It is named by that file and its line."""
    path = place(tmp_path, *SOUND["conv"])
    (tmp_path / "blocks.py").write_text(
        "from torch import nn\n\n\ndef block(*_):\n    return 1 / 0\n"
    )
    assert faults(path).startswith("blocks.py:5: found ZeroDivisionError: division by zero; make(")


# --- modules ------------------------------------------------------------------------------------

ASIDE = """\
import blocks
import json
import parts.deep as deep
import parts.other
from parts import deep as again
from parts.deep import VALUE
from .blocks import block
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Kept:
    name: "str"


class Network(nn.Module):
    def __init__(self, tasks, inputs):
        super().__init__()
        assert block is blocks.block and deep is again and parts.other.twice == 2 * VALUE
        assert json.dumps([1]) == "[1]"
        self.linear, self.tasks = nn.Linear(18, 4), tasks

    def forward(self, inputs):
        from parts import late

        y = self.linear(inputs["features"].flatten(1)) * late.ONE
        shapes = [(*t.positions, t.outputs) for t in self.tasks]
        return {t.name: y[:, : t.outputs].reshape(-1, *[1] * len(t.positions), t.outputs)
                .expand(-1, *shape) for t, shape in zip(self.tasks, shapes)}


build = Network
"""


def test_files_beside_are_found_in_every_way(tmp_path: Path) -> None:
    """Absolute and relative imports, of packages with and without a file, also in a forward; a
    name of Python's own stays Python's. Nothing stays in Python's path, or under a common name."""
    path, before = place(tmp_path, ASIDE), (list(sys.path), set(sys.modules))
    (tmp_path / "parts").mkdir()
    for name, source in {
        "parts/deep.py": "VALUE = 3\n",
        "parts/other.py": "import parts.deep\nfrom .deep import VALUE\ntwice = 2 * VALUE\n",
        "parts/late.py": "ONE = 1.0\n",
        "json.py": "raise SystemExit('not this one')\n",
    }.items():
        (tmp_path / name).write_text(source)
    spec = read_spec(path)
    check_own(spec, load(spec, tmp_path))
    assert sys.path == before[0]
    new = [name for name in set(sys.modules) - before[1] if not name.startswith("own_")]
    assert not [name for name in new if name in ("network", "blocks", "parts", "json")]
    assert not list(tmp_path.rglob("__pycache__"))


def test_the_file_of_a_package(tmp_path: Path) -> None:
    """The `__init__.py` of a folder may import from beside itself."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "__init__.py").write_text("from .model import build\n")
    (tmp_path / "net" / "model.py").write_text(MLP)
    path = place(tmp_path, MLP, {"file": "net/__init__.py"})
    spec = read_spec(path)
    check_own(spec, load(spec, tmp_path))


DRAWN = MLP.replace("from torch", "import numpy as np\nimport torch\nfrom torch", 1)


@pytest.mark.parametrize("drawn", ["np.random.randn(18)", "torch.randn(18)"])
def test_numbers_that_are_drawn_when_a_file_is_loaded(tmp_path: Path, drawn: str) -> None:
    """Another process draws others, so a network that computes with them is refused; one that
    does not begins alike, whether it is loaded for the first time or not."""
    source = DRAWN.replace("\n\n\n", f"\n\nMASK = torch.as_tensor({drawn}).float()\n\n\n", 1)
    used = source.replace("flatten(1))", "flatten(1) * MASK)")
    assert "between two networks" in (found := faults(place(tmp_path, used))) or "state" in found
    path = place(tmp_path, source)
    spec = read_spec(path)
    check_own(spec, load(spec, tmp_path))
    path = place(tmp_path, source + "# loaded nowhere yet\n")
    first, again = (built(path).own.get_parameter("first.weight") for _ in range(2))
    assert torch.equal(first, again)


def test_a_last_batch_of_one_sample(tmp_path: Path) -> None:
    """A BatchNorm fails with it, at the end of the first epoch; validate says so."""
    norm = "        self.norm = nn.BatchNorm1d(width)\n"
    source = MLP.replace("        self.steps = steps\n", f"        self.steps = steps\n{norm}")
    source = source.replace("x = self.first(", "x = self.norm(self.first(")
    source = source.replace(".flatten(1))", ".flatten(1)))")
    path = place(tmp_path, source, {}, {"train.batch_size": 7})
    found = faults(path)
    assert found.startswith("network.py:16: found ValueError: Expected more than 1 value")
    assert "in an epoch's last batch, which has 1 of 7 samples; trunk must compute z" in found
    path = place(tmp_path, source, {}, {"train.batch_size": 8})
    check_own(read_spec(path), load(read_spec(path), tmp_path))


def test_what_a_file_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes to stderr, as stdout may be JSON."""
    source = MLP.replace("    return Perceptron", "    print('builds')\n    return Perceptron")
    built(place(tmp_path, "print('loads')\n" + source))
    assert capsys.readouterr() == ("", "loads\nbuilds\n")


def test_a_file_that_switches_gradients_off(tmp_path: Path) -> None:
    """What it switches while it is loaded is switched back."""
    path = place(tmp_path, "import torch\n\ntorch.set_grad_enabled(False)\n" + MLP)
    spec = read_spec(path)
    check_own(spec, load(spec, tmp_path))
    assert torch.is_grad_enabled()


def test_two_files_of_one_name(tmp_path: Path) -> None:
    """Each spec's network has its own modules, whatever they are called."""
    paths = [place(tmp_path / name, *SOUND["conv"]) for name in ("a", "b")]
    wide = (tmp_path / "b" / "blocks.py").read_text().replace("3, padding=1", "5, padding=2")
    (tmp_path / "b" / "blocks.py").write_text(wide)
    sizes = [built(path).own.get_parameter("trunk.layers.0.0.weight").shape[-1] for path in paths]
    assert sizes == [3, 5]
    assert built(paths[0]).own.trunk.layers[0][0].kernel_size == (3,)  # type: ignore[union-attr, index]


def test_a_file_that_changes_after_the_spec_was_read(tmp_path: Path) -> None:
    """What runs is what was hashed: another file is refused."""
    path = place(tmp_path, MLP)
    spec = read_spec(path)
    (tmp_path / "network.py").write_text(MLP + "# more\n")
    with pytest.raises(InputError, match=r"network.py: found .*; the file's is"):
        build_network(spec, load(spec, tmp_path))


# --- what the network gets ----------------------------------------------------------------------


def test_the_trunk_gets_scaled_features(tmp_path: Path) -> None:
    """Standardized on the training split, with the features that say what is missing; the scaling
    lies in the checkpoint, and the parameters keep their names."""
    path = place(tmp_path, MLP, {}, {"data.scale": "standardize", "data.missing": "indicator"})
    stored = dict(np.load(tmp_path / "small.npz"))
    stored["features"][3, 2, 1] = np.nan
    np.savez(tmp_path / "small.npz", **stored)
    model, data = built(path), load(read_spec(path), tmp_path)
    seen: list[torch.Tensor] = []
    first = model.own.get_submodule("first")
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(data.train.inputs)
    x = seen[0].unflatten(1, (6, 4))
    known = stored["features"][:36]
    expected = np.nan_to_num((known - np.nanmean(known, (0, 1))) / np.nanstd(known, (0, 1)))
    assert np.allclose(x[..., :3], expected, atol=1e-5)
    assert x[..., 3].nonzero().tolist() == [[3, 2]]
    assert {name for name in model.state_dict() if not name.startswith("own.")} == {
        f"by_input.input_features.{name}" for name in ("shift", "scale", "fill", "indicated")
    }
    assert "own.heads.of_down.weight" in dict(model.named_parameters())


KEEPING = """\
import torch


class Keeping(torch.nn.Module):
    def __init__(self, *told):
        super().__init__()
        self.told = told

    def forward(self, inputs):
        self.got = dict(inputs)
        return {"a": torch.zeros(3, 2)}


build = Keeping
"""


def test_codes_and_bytes(tmp_path: Path) -> None:
    """Codes come as they are, as whole numbers; bytes as numbers, 255 as 1 unless standardized;
    `build` is told of both."""
    place(tmp_path, KEEPING)
    code = OwnCode(Python(kind="python", file="network.py"), tmp_path, "$.model")
    scaling = Scaling(2)
    scaling.fit("none", measure_features(torch.zeros(3, 4, 2, dtype=torch.uint8)), 255.0)
    about = {"image": InputInfo(whole=255.0), "item": InputInfo(codes=(5, 9))}
    shapes = {"image": (4, 2), "item": (2,)}
    tasks = [Task("a", "window", (), 2)]
    model = build_own(code, "build", {}, tasks, about, {"image": scaling}, shapes)
    model(
        {
            "image": torch.full((3, 4, 2), 255, dtype=torch.uint8),
            "item": torch.tensor([[4, 8]] * 3, dtype=torch.int32),
        }
    )
    told: tuple[Any, Any] = model.own.told  # type: ignore[assignment]
    got: dict[str, torch.Tensor] = model.own.got  # type: ignore[assignment]
    assert told[0] == tuple(tasks)
    assert {name: (each.shape, each.codes) for name, each in told[1].items()} == {
        "image": ((4, 2), ()),
        "item": ((2,), (5, 9)),
    }
    assert got["image"].dtype == torch.float32
    assert got["image"].tolist() == [[[1.0, 1.0]] * 4] * 3
    assert got["item"].dtype == torch.int64
    assert got["item"].tolist() == [[4, 8]] * 3


def test_the_start_of_the_outputs(tmp_path: Path) -> None:
    """A module that offers `start_at` begins at the mean of each target; others as they are."""
    for source, more in (SOUND["conv"], SOUND["mlp"]):
        spec = read_spec(place(tmp_path, source, more))
        model = Trainer(spec, load(spec, tmp_path)).stepper.model
        assert isinstance(model, OwnNetwork)
        biases = [p for name, p in model.named_parameters() if name.endswith("level.bias")]
        assert (abs(biases[0].item()) < 1e-6) == (source is not MLP)  # of a standardized target


# --- commands -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_validate_as_a_command(nursery: Nursery, tmp_path: Path) -> None:
    """A sound network is valid; a faulty one is one line, and the whole error on request."""
    path = place(tmp_path, MLP)
    sound = nursery.start("validate", path)
    assert (sound.wait(), sound.err) == (0, "")
    assert sound.out.startswith(f"{path}: valid; 36 training")
    source, line = FAULTY["raises in a head"]
    place(tmp_path, source)
    short = nursery.start("validate", path)
    assert (short.wait(), short.err) == (2, f"{line}\n")
    whole = nursery.start("validate", path, "--traceback")
    assert whole.wait() == 2
    assert "Traceback (most recent call last)" in whole.err
    assert f'File "{tmp_path}/network.py", line 20, in head' in whole.err
    assert whole.err.endswith(f"KeyError: 'for_kind'\n{line}\n")


def test_a_run_does_not_begin(nursery: Nursery, tmp_path: Path) -> None:
    """A faulty network is one line before the run is in its store."""
    source, line = FAULTY["build raises"]
    path = place(tmp_path, source, {"options": {"width": 6}})
    ended = nursery.start("run", path, "--store", tmp_path / "runs")
    assert (ended.wait(), ended.err) == (2, f"{line}\n")
    assert not (tmp_path / "runs").exists()
