"""Faults of the samples: what copied rows may say of their labels, and what they may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from job.data.dataset import load
from job.diagnose.causes.samples import contradicting
from job.diagnose.neighbours import Rows, contradiction
from job.spec import JobSpec
from job.spec.read import parse_spec, read_spec
from tests.bench.outside import planted
from tests.support.command import ROOT


def repeated(categories: int, n: int = 800, noise: float = 0.5) -> tuple[Rows, torch.Tensor]:
    """Rows of few categories, each with the label that its number tells, but for some noise."""
    draw = torch.Generator().manual_seed(0)
    which = torch.randint(categories, (n,), generator=draw)
    label = (which + noise * categories * torch.randn(n, generator=draw)) / categories
    x = torch.stack([which, which.square() / categories], 1).double()
    return Rows(x, label.double()[:, None], torch.arange(n)), which


@pytest.mark.parametrize("noise", [0.05, 0.5, 5.0])
def test_a_table_of_categories_may_repeat_itself(noise: float) -> None:
    """However noisy labels are, rows with the same features differ no more than similar ones."""
    found = contradiction(*repeated(100, noise=noise))
    assert found is not None
    assert found.value < 3 * found.error


def test_copies_without_their_labels_contradict_each_other() -> None:
    """If each second row's features are another row's, and its label is its own."""
    rows, which = repeated(400, noise=0.02)
    rows.x[1::2], which[1::2] = rows.x[::2].clone(), which[::2].clone()
    found = contradiction(rows, which)
    assert found is not None
    assert found.value > 0.2
    assert found.value > 5 * found.error


def test_few_copies_say_nothing() -> None:
    """Without repeated rows, or with a handful of them, nothing is asked."""
    rows, which = repeated(400)
    assert contradiction(rows, torch.arange(len(which))) is None
    assert contradiction(rows.at(torch.arange(12)), torch.arange(12) // 2) is None


def test_the_census_contradicts_nothing() -> None:
    """A table of people whose rows repeat: for half of them there is one with another label."""
    path = ROOT / "docs/examples/census.json"
    spec: JobSpec = read_spec(path)
    data = load(spec, path.parent)
    assert [contradicting(task, data) for task in spec.tasks] == [None] * 4


@pytest.mark.parametrize("name", ["wine", "cancer"])
def test_contradicting_labels_are_named(name: str, tmp_path: Path) -> None:
    """Features of some rows of public data stand in the next row again, beside another label."""
    spec = parse_spec(planted(name, "contradictory").write(tmp_path).read_text())
    data = load(spec, tmp_path)
    for task in spec.tasks:
        finding = contradicting(task, data)
        assert finding is not None
        assert finding.edits == ()
