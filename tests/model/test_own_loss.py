"""Losses of one's own: as good as a built-in one of the same formula; faulty ones are one line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from job.data.dataset import load
from job.errors import InputError
from job.spec.read import read_spec
from job.train.build.check_own import check_own
from job.train.build.losses import task_losses
from job.train.yardsticks import Yardsticks
from tests.support.command import here
from tests.support.tiny_job import PARTIAL, SMALL, Trained, write

HUBER = """\
import torch


def loss(prediction, target, delta=1.0):
    error = (prediction - target).abs()
    return torch.where(error < delta, error**2 / 2, delta * (error - delta / 2))
"""
OWN = {"kind": "python", "file": "loss.py"}


def place(
    folder: Path, source: str, tasks: list[Any], of: str, loss: dict[str, Any] | None = None
) -> Path:
    """The small job with tasks, one of which has a loss of one's own; returns the spec's path."""
    tasks = [t | {"loss": OWN | (loss or {})} if t["name"] == of else t for t in tasks]
    path = write(folder, {"tasks": tasks})
    (folder / "loss.py").write_text(source)
    return path


def trained(path: Path) -> Trained:
    spec = read_spec(path)
    made = Trained(spec, load(spec, path.parent))
    made.run()
    return made


@pytest.mark.parametrize("tasks", [SMALL["tasks"], PARTIAL], ids=["complete", "partial"])
def test_a_loss_of_ones_own_is_like_a_built_in_one(tmp_path: Path, tasks: list[Any]) -> None:
    """Huber as a file trains as the built-in one does, up to rounding: losses, weights, baselines
    found by search, skill; also where labels are missing."""
    built_in = [
        t | {"loss": {"kind": "huber", "delta": 0.5}} if t["name"] == "down" else t for t in tasks
    ]
    theirs = trained(write(tmp_path / "a", {"tasks": built_in}))
    ours = trained(place(tmp_path / "b", HUBER, tasks, "down", {"options": {"delta": 0.5}}))
    for one, other in zip(ours.steps, theirs.steps, strict=True):
        assert one.tasks["down"].loss == pytest.approx(other.tasks["down"].loss, rel=1e-4)
    for epoch, its in zip(ours.epochs, theirs.epochs, strict=True):
        mine, others = epoch.tasks["down"], its.tasks["down"]
        for name in ("train_loss", "val_loss_original", "skill", "val_skill", "grad_share"):
            expected = getattr(others, name)
            if expected is not None:  # a skill that the few labels do not suffice for
                expected = pytest.approx(expected, rel=1e-3, abs=1e-4)
            assert getattr(mine, name) == expected


def test_its_baselines_are_the_best_constants(tmp_path: Path) -> None:
    """A loss without a formula: no constant is better than the one found."""
    source = "def loss(prediction, target):\n    d = target - prediction\n"
    source += "    return d**2 * (1 + (d > 0))\n"
    path = place(tmp_path, source, SMALL["tasks"], "level")
    spec = read_spec(path)
    data = load(spec, tmp_path)
    losses = task_losses(spec, data)
    found = Yardsticks(losses, data).baselines[1].constant["train"]
    target = data.train.targets["level"]
    grid = torch.linspace(float(target.min()), float(target.max()), 4001)
    error = target[:, 0] - grid[:, None]
    least = (error**2 * (1 + (error > 0))).mean(1).min().item()
    assert found == pytest.approx(least, rel=1e-4)


SEE = "correct it; `job validate --traceback` prints the whole error"
FAULTY = {
    "def loss(prediction, target, delta):\n    return prediction\n": (
        "loss.py:1: found TypeError: loss() missing 1 required positional argument: 'delta'; loss "
        f"must compute losses; {SEE}"
    ),
    "def loss(prediction, target):\n    return prediction.nothing\n": (
        "loss.py:2: found AttributeError: 'Tensor' object has no attribute 'nothing'; loss must "
        f"compute losses; {SEE}"
    ),
    "def berhu(prediction, target):\n    return prediction\n": (
        "loss.py: found no function loss; the file must define loss; define it, or correct its name"
    ),
    "def loss(prediction, target):\n    return ((prediction - target) ** 2).mean()\n": (
        "loss.py:1: found losses []; there is one for each element of the target [36, 6, 1]; "
        "return the elements' losses, not their mean: labels may miss, or weigh"
    ),
    "def loss(prediction, target):\n    return prediction - target\n": (
        "loss.py:1: found losses below 0, or not finite, of the task down; losses are finite and 0 "
        "or above, "
        "so that skill has a meaning; add what makes that of a perfect prediction 0"
    ),
    "def loss(prediction, target):\n    return (prediction - target).abs().detach()\n": (
        "loss.py:1: found losses without a gradient of the task down; a loss must lead back to the "
        "prediction; compute them by torch, from prediction"
    ),
    "def loss(prediction, target):\n    e = (prediction - target) ** 2\n    return e / e.max()\n": (
        "loss.py:1: found losses that change with the batch of the task down; an element's loss "
        "depends on this element alone, as labels may miss or weigh; use no mean, maximum or sum "
        "of it"
    ),
}


@pytest.mark.parametrize("source", FAULTY)
def test_faulty_losses_are_one_line(tmp_path: Path, source: str) -> None:
    """The user's file and line, what was found, the rule and the remedy."""
    spec = read_spec(place(tmp_path, source, SMALL["tasks"], "down"))
    with pytest.raises(InputError) as caught:
        check_own(spec, load(spec, tmp_path))
    assert str(caught.value) == FAULTY[source]


BROADCAST = """\
import torch.nn.functional as F


def loss(prediction, target):
    return F.mse_loss(prediction, target{index}, reduction="none"){after}
"""


@pytest.mark.parametrize(
    ("index", "after", "code", "warned"), [("[..., 0]", "", 2, 0), ("[:1]", " * 0", 0, 1)]
)
def test_warnings_before_a_fault_are_dropped(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    index: str,
    after: str,
    code: int,
    warned: int,
) -> None:
    """A fault is one line, whatever torch warned of before it; without one, warnings are shown."""
    source = BROADCAST.format(index=index, after=after)
    path = place(tmp_path, source, SMALL["tasks"], "down")
    with warnings.catch_warnings(record=True, action="always") as seen:
        ended, _, err = here(capsys, "validate", path)
    assert (ended, len(err.splitlines())) == (code, 1 if code else 0), err
    assert bool(seen) == bool(warned)


def test_its_file_is_content(tmp_path: Path) -> None:
    """A changed file is another spec; options and name are part of it."""
    path = place(tmp_path, HUBER, SMALL["tasks"], "down")
    hashes = [read_spec(path).content_hash()]
    (tmp_path / "loss.py").write_text(HUBER + "# more\n")
    hashes.append(read_spec(path).content_hash())
    place(tmp_path, HUBER, SMALL["tasks"], "down", {"options": {"delta": 2}})
    hashes.append(read_spec(path).content_hash())
    assert len(set(hashes)) == 3
