"""The plain sum, tuned by `job search`: rate, decay and the tasks' weights.

As many trials as the table has methods besides: who tries each of them once could have tuned the
sum instead (Kurin et al. 2022). Trials are as long as the runs; the median pruner ends some. They
have a seed that no row has, and are chosen by validation samples; of the prices by earlier days.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from job.background import die_with_parent
from tests.bench.multitask.methods import BALANCERS
from tests.bench.multitask.problems import Json, Problem
from tests.support.command import JOB, environment

TRIALS = len(BALANCERS) + 2  # and the two sums
SEED = 1000
RATE, DECAY, WEIGHT = (0.0005, 0.02), (0.001, 0.3), (0.2, 5.0)
"""Least and greatest, drawn evenly in the logarithm."""


def spec_and_space(problem: Problem) -> tuple[Json, Json]:
    """What is searched, and over what."""
    spec = problem.spec_of(SEED)
    spec["data"] = spec["data"] | problem.searched
    spec["optimizer"] = {"lr": 0.003, "weight_decay": 0.01}
    spec["balance"] = {"kind": "fixed", "weights": dict.fromkeys(problem.tasks, 1.0)}
    space = {"optimizer.lr": _range(RATE), "optimizer.weight_decay": _range(DECAY)}
    space |= {f'balance.weights["{task}"]': _range(WEIGHT) for task in problem.tasks}
    return spec, space


def _range(ends: tuple[float, float]) -> Json:
    return {"low": ends[0], "high": ends[1], "log": True}


def search(name: str, problem: Problem, folder: Path, trials: int, shorter: Json) -> Json:
    """The search's line: the sections that it found. One that was interrupted goes on.

    shorter: what its training has in place of the spec's.
    """
    spec, space = spec_and_space(problem)
    spec["train"] |= shorter
    of = folder / f"search-{name}-{trials}"
    of.mkdir(exist_ok=True)
    data = spec["data"]["path"]
    spec["data"]["path"] = os.path.relpath(folder / data, of)
    (of / "spec.json").write_text(json.dumps(spec))
    (of / "space.json").write_text(json.dumps(space))
    began, me = time.monotonic(), os.getpid()
    command = [*JOB, "search", "spec.json", "--space", "space.json", "--trials", str(trials)]
    ended = subprocess.run(
        [*command, "--objective", "mean", "--best", "best.json"],
        cwd=of,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: die_with_parent(me),
    )
    best = of / "best.json"
    if ended.returncode != 0 or not best.exists():
        sys.exit(f"search of {name}: exit code {ended.returncode}\n{ended.stderr[-2000:]}")
    found = json.loads(best.read_text())
    return {
        "found": {key: found[key] for key in ("optimizer", "balance")},
        "trials": trials,
        "seconds": round(time.monotonic() - began, 1),
    }
