"""The table of balancing methods: its specs are valid, and its arithmetic is right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from job.search.space import read_space
from tests.bench.faults.results import Results
from tests.bench.multitask.keys import alone_key, run_key, starved_key
from tests.bench.multitask.methods import BALANCERS, RAW, SUM, TUNED, methods_of, spec_of
from tests.bench.multitask.problems import PROBLEMS, parsed
from tests.bench.multitask.scores import delta_m, difference, interval
from tests.bench.multitask.search import spec_and_space
from tests.bench.multitask.starved import LUDWIG, WEIGHTINGS, InverseLoss
from tests.bench.multitask.starved import spec_of as starved_spec
from tests.bench.multitask.tables import markdown


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_methods_spec_is_valid(name: str) -> None:
    """Methods are edits of one spec, which the product reads; so are the networks of one task."""
    problem = PROBLEMS[name]
    for method in methods_of(problem):
        spec = parsed(spec_of(problem, method, 3))
        assert spec.seed == 3
        assert spec.task_names == problem.tasks
        standard = [task.transform.kind for task in spec.tasks].count("standardize")
        assert (standard == 0) == (method == RAW or RAW not in methods_of(problem))
    for task in problem.tasks:
        assert parsed(problem.spec_of(0, [task])).task_names == [task]
    assert set(problem.higher) == set(problem.tasks)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_search_has_a_space_of_its_spec(name: str, tmp_path: Path) -> None:
    """Each value that is searched is one of the spec, and both its ends are allowed."""
    spec, space = spec_and_space(PROBLEMS[name])
    (tmp_path / "space.json").write_text(json.dumps(space))
    found = read_space(tmp_path / "space.json", spec, tmp_path)
    assert len(found.dimensions) == 2 + len(PROBLEMS[name].tasks)


def test_delta_m_counts_what_is_better_as_above_0() -> None:
    """An accuracy from 0.8 to 0.84 is +5 %, an error from 2 to 2.2 is −10 %: −2.5 % in the mean."""
    alone = {"hit": 0.8, "error": 2.0}
    found = delta_m({"hit": 0.84, "error": 2.2}, alone, {"hit": True, "error": False})
    assert found == pytest.approx(-2.5)
    assert delta_m(alone, alone, {"hit": True, "error": False}) == 0


def test_intervals_are_students() -> None:
    """Of 1, 2, 3, 4, 5: 3 ± 2.776 √(2.5 / 5); of one seed there is none."""
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3
    assert found.around == pytest.approx(2.7764 * math.sqrt(0.5), rel=1e-4)
    assert found.off_zero
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0], of=20).around > found.around
    assert not interval([7.0]).off_zero


def test_differences_are_paired_by_seed() -> None:
    """What is the same on every seed is certain, however much the seeds differ."""
    found = difference({0: 1.0, 1: 11.0, 2: 21.5}, {0: 0.0, 1: 10.0, 2: 20.0, 7: 99.0})
    assert found.seeds == 3
    assert found.mean == pytest.approx(3.5 / 3)
    spread = math.sqrt((2 * (1 - 3.5 / 3) ** 2 + (1.5 - 3.5 / 3) ** 2) / 2)
    assert found.around == pytest.approx(4.3027 * spread / math.sqrt(3), rel=1e-4)


def test_the_tables_are_of_what_is_measured(tmp_path: Path) -> None:
    """Δm, step time and words follow from the lines; what is not measured is not in the tables."""
    results = Results(tmp_path, "multitask.jsonl")
    for seed, noise in enumerate((0.0, 0.001, 0.002)):
        for task in ("income", "never_married"):
            results.add(alone_key("adult", task, seed), _line({task: 0.8 + noise}, 1.0))
        both = {"income": 0.8 + noise, "never_married": 0.8 + noise}
        results.add(run_key("adult", SUM, seed), _line(both, 2.0))
        better = {task: 1.1 * value for task, value in both.items()}
        results.add(run_key("adult", "UPGrad", seed), _line(better, 3.0))
    results.add(starved_key(LUDWIG, 0), _starved("task_starving"))
    text = markdown(tmp_path / "multitask.jsonl")
    assert "| UPGrad | – | – | +10.0 ± 0.0 (1.50) | – | – |" in text
    assert f"| **{SUM}** | – | – | +0.0 ± 0.0 (1.00) | – | – |" in text
    assert "adult (3 seeds): better: UPGrad by +10.0 ± 0.0; nothing is worse." in text
    assert "| UPGrad | 0.881 ± 0.003 | 0.881 ± 0.003 | 3.0 ms |" in text
    assert "`task_starving` countdown: 1 of 1 seeds, epoch 2" in text
    assert not any(f"| {row} |" in text for row in {TUNED, *BALANCERS} - {"UPGrad"})


def _line(metrics: dict[str, float], ms: float) -> dict[str, object]:
    return {"metrics": metrics, "ms": ms, "seconds": 1.0}


def _starved(kind: str) -> dict[str, object]:
    tasks = ("type", "pointers", "binary", "countdown")
    alarms = [{"kind": kind, "task": "countdown", "epoch": 2}]
    each = {name: dict.fromkeys(tasks, 0.1) for name in ("skills", "shares", "weights")}
    return each | {"alarms": alarms}


def test_the_peers_weights_follow_losses_alone() -> None:
    """1/K first; then a tenth of the way to what is inverse to the losses of the step before."""
    assert all(parsed(starved_spec(weighting, 1)) for weighting in WEIGHTINGS)
    balancer, gram = InverseLoss(2), torch.zeros(2, 2)
    first = balancer(torch.tensor([1.0, 3.0]), gram)
    assert first.tolist() == [0.5, 0.5]
    second = balancer(torch.tensor([1.0, 1.0]), gram)
    assert second.tolist() == pytest.approx([0.9 * 0.5 + 0.1 * 0.75, 0.9 * 0.5 + 0.1 * 0.25])
