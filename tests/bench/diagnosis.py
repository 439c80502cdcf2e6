"""The diagnosis on planted faults: a confusion table over domains and seeds.

python -m tests.bench.diagnosis --seeds 8 --workers 2
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import get_args

import torch

from job.data.dataset import load
from job.diagnose.case import Mechanism
from job.diagnose.diagnose import diagnose
from job.spec.read import read_spec
from tests.support.command import ROOT
from tests.support.planted_faults import DOMAINS, FAULTS, HEALTHY, planted

SHIPPED = {"spec.json": "healthy", "docker/failing.json": "failing"}
MECHANISMS = get_args(Mechanism)


def main() -> None:
    """Print a table: a row for each planted fault, a column for each mechanism, counts of runs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=8)
    options.add_argument("--workers", type=int, default=1)
    asked = options.parse_args()
    problems = [(d, name) for d in DOMAINS for name in (*HEALTHY, *FAULTS)]
    problems += [("bars", name) for name in SHIPPED]
    jobs = [(*problem, seed) for problem in problems for seed in range(asked.seeds)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.workers, spawn, torch.set_num_threads, (1,)) as pool:
        results = list(pool.map(_mechanisms, *zip(*jobs, strict=True)))
    print("| domain | planted | right | " + " | ".join(m.replace("_", " ") for m in MECHANISMS))
    print("|---|---|---|" + "---|" * len(MECHANISMS))
    for domain, name in problems:
        rows = [r for (d, n, _), r in zip(jobs, results, strict=True) if (d, n) == (domain, name)]
        counts = Counter(mechanism for row in rows for mechanism in row)
        right = sum(_is_right(name, row) for row in rows)
        cells = " | ".join(str(counts[m]) if counts[m] else "" for m in MECHANISMS)
        print(f"| {domain} | {name.replace('_', ' ')} | {right}/{len(rows)} | {cells} |")


def _mechanisms(domain: str, name: str, seed: int) -> set[str]:
    if domain == "bars":
        path = ROOT / name
        spec = read_spec(path).model_copy(update={"seed": seed})
        findings = diagnose(spec, load(spec, path.parent)).findings
    else:
        findings = planted(domain, name, seed).diagnose(seed).findings
    return {finding.mechanism for finding in findings}


def _is_right(name: str, findings: set[str]) -> bool:
    if name in HEALTHY or name == "spec.json":
        return not findings
    if name in FAULTS:
        return FAULTS[name].mechanism in findings
    return findings >= {"travel_budget", "saturated_loss", "starved"}


if __name__ == "__main__":
    main()
