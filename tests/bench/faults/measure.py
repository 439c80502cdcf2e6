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


def measure_case(case: Case, results: Results) -> None:
    """All steps of a case that have no line yet."""
    folder = results.folder / case.name
    faulty, repaired = case.variant("faulty"), case.variant("repaired")
    if (step := f"{case.name}: diagnose") not in results:
        results.add(step, _diagnose(write(faulty, folder / "faulty", "faulty")))
    if (step := twin_step(case)) not in results:
        results.add(step, _diagnose(write(repaired, folder / "repaired", "repaired")))
    if (step := f"{case.name}: train") not in results:
        patch = (results[f"{case.name}: diagnose"]["printed"] or {}).get("patch") or []
        rows = {"faulty": faulty, "repaired": repaired}
        if patch:
            rows["remedied"] = faulty._replace(spec=jsonpatch.apply_patch(faulty.spec, patch))
        paths = [write(problem, folder / name, name) for name, problem in rows.items()]
        results.add(step, _train(paths))


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
    return _run(path.parent, "diagnose", path.name, "--json")


def _train(paths: list[Path]) -> dict[str, Any]:
    """The outcome of `compare` for each spec by itself; printed: its row, by name."""
    found = {
        path.stem: _run(path.parent, "compare", path.name, "--seeds", str(SEEDS), "--json")
        for path in paths
    }
    return {
        "seconds": sum(each["seconds"] for each in found.values()),
        "printed": {name: each["printed"] for name, each in found.items()},
        "stderr": "".join(each["stderr"] for each in found.values() if not each["printed"]),
    }


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
        )
        code, out, err = end.returncode, end.stdout, end.stderr
    except subprocess.TimeoutExpired:
        code, out, err = 124, "", f"stopped after {LIMIT:g} s"
    return {
        "code": code,
        "seconds": round(time.monotonic() - began, 1),
        "printed": _last_object(out),
        "stderr": err[-600:],
    }


def _last_object(text: str) -> Any:
    """The last JSON object of some lines, or the one that they are; null if there is none."""
    for candidate in (text, *reversed(text.splitlines())):
        try:
            return json.loads(candidate)
        except json.JSONDecodeError:
            continue
    return None
