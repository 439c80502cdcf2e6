"""Diagnoses and trains the variants of a case, each command a process of its own.

The steps of a case are named `NAME: diagnose`, `twin HASH: diagnose` and `NAME: train`; twins with
the same spec, arrays and network are diagnosed once. Those of a healthy problem are named
`healthy NAME, seed S`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonpatch
import numpy as np

from tests.bench.faults.case import NETWORKS, Case, write
from tests.bench.faults.healthy import HEALTHY
from tests.bench.faults.results import Results
from tests.support.command import JOB, environment

SEEDS = 2
"""Seeds on which each variant of a case is trained."""
LIMIT = 1800.0
"""Seconds after which a command is stopped; far beyond what a case needs on a busy machine."""


def diagnose_faulty(case: Case, results: Results) -> None:
    """Diagnose the faulty spec of a case."""
    if (step := f"{case.name}: diagnose") not in results:
        folder = results.folder / case.name / "faulty"
        results.add(step, _diagnose(write(case.variant("faulty"), folder, "faulty")))


def diagnose_twin(case: Case, results: Results) -> None:
    """Diagnose the repaired twin of a case, unless another case has the same."""
    if (step := twin_step(case)) not in results:
        folder = results.folder / case.name / "repaired"
        results.add(step, _diagnose(write(case.variant("repaired"), folder, "repaired")))


def train_variants(case: Case, results: Results) -> None:
    """Train the faulty spec with and without the edits offered, if any are, and its twin."""
    diagnose_faulty(case, results)
    patch = (results[f"{case.name}: diagnose"]["printed"] or {}).get("patch")
    if not patch or (step := f"{case.name}: train") in results:
        return
    faulty, repaired = case.variant("faulty"), case.variant("repaired")
    remedied = faulty._replace(spec=jsonpatch.apply_patch(faulty.spec, patch))
    rows = {"faulty": faulty, "remedied": remedied, "repaired": repaired}
    folder = results.folder / case.name
    results.add(step, _train([write(each, folder / name, name) for name, each in rows.items()]))


def measure_healthy(name: str, seed: int, results: Results) -> None:
    """Diagnose a healthy problem on a seed."""
    step = healthy_step(name, seed)
    if step not in results:
        problem = HEALTHY[name]()
        problem = problem._replace(spec={**problem.spec, "seed": seed})
        folder = results.folder / "healthy" / f"{name.replace(': ', '-').replace(' ', '-')}-{seed}"
        results.add(step, _diagnose(write(problem, folder, "healthy")))


def healthy_step(name: str, seed: int) -> str:
    """Name of the step of a healthy problem."""
    return f"healthy {name}, seed {seed}"


def twin_step(case: Case) -> str:
    """Name of the step that diagnoses a case's twin."""
    arrays, spec = case.variant("repaired")
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    if "file" in spec["model"]:
        digest.update((NETWORKS / spec["model"]["file"]).read_bytes())
    return f"twin {digest.hexdigest()[:12]}: diagnose"


def _diagnose(path: Path) -> dict[str, Any]:
    """The outcome of `diagnose --json`; printed: its object, null if it printed none."""
    found = _run(path.parent, "diagnose", path.name, "--json")
    return found | {"printed": (found["printed"] or [None])[-1]}


def _train(paths: list[Path]) -> dict[str, Any]:
    """The outcome of `compare` of all specs; printed: its rows by name, those that it has."""
    arguments = map(str, ("compare", *paths, "--seeds", SEEDS, "--json"))
    found = _run(paths[0].parent, *arguments)
    return found | {"printed": {row["row"]: row for row in found["printed"]}}


def _run(folder: Path, *arguments: str) -> dict[str, Any]:
    began = time.monotonic()
    try:
        end = subprocess.run(
            [*JOB, *arguments],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            start_new_session=True,  # Ctrl-C ends the bench behind the steps under way
        )
        code, out, err = end.returncode, end.stdout, end.stderr
    except subprocess.TimeoutExpired:
        code, out, err = 124, "", f"stopped after {LIMIT:g} s"
    return {
        "code": code,
        "seconds": round(time.monotonic() - began, 1),
        "printed": _objects(out),
        "stderr": err[-600:],
    }


def _objects(text: str) -> list[Any]:
    """The lines as JSON values; none if one of them is something else."""
    try:
        return [json.loads(line) for line in text.splitlines()]
    except json.JSONDecodeError:
        return []
