"""What is seen in a run, in words: the titles of a report's charts."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from job.journal import Line

SPACE = "\N{NO-BREAK SPACE}"
CONFLICT = -0.1
"""Cosine below which two gradients are said to pull against each other."""


def words(run: Line) -> Line:
    """The titles: of the verdict, of each task with a note below, of shares, weights, cosines."""
    last = run["last_epoch"]
    of = {"shares": _shares, "weights": _weights, "cosines": _cosines}
    return {
        "verdict": verdict(run),
        "passed": (run["finished"] or {}).get("exit_code") == 0,
        "tasks": {n: {"title": _title(run, n), "note": _note(run, n)} for n in run["tasks"]},
        **{what: tell(last) if last else "no epoch was finished" for what, tell in of.items()},
        "marks": _marks(run["marks"]),
    }


def verdict(run: Line) -> str:
    """How the run ended, or where it is."""
    end = run["finished"]
    if end is None:
        return f"not finished: {run['phase'] or 'no event yet'}"
    failed = [gate for gate in end["gates"] if not gate["passed"]]
    if end["reason"] in ("succeeded", "gates_failed"):
        return _gates(len(end["gates"]), failed)
    error = f": {end['error']}" if end.get("error") else ""
    return f"{end['reason'].replace('_', ' ')}{error}"


def _gates(count: int, failed: list[Line]) -> str:
    if not count:
        return "succeeded; it had no gates"
    if not failed:
        return {1: "passed its gate", 2: "passed both gates"}.get(
            count, f"passed all {count} gates"
        )
    missed = f"{failed[0]['gate']}: {measured(failed[0])}"
    how = "failed" if count == 1 else f"failed {len(failed)} of {count} gates"
    return f"{how}: {missed}"


def measured(gate: Line) -> str:
    """A gate's measurement with its unit."""
    value = gate.get("measured")
    if value is None:
        return "not measured"
    return percent(value, 1) if gate["unit"] == "share" else f"{value:.4g}"


def percent(value: float, digits: int = 0) -> str:
    """Of a share, with a true minus."""
    return f"{100 * value:.{digits}f}{SPACE}%".replace("-", "−")


def _title(run: Line, name: str) -> str:
    last = run["last_epoch"]
    if name in run["marks"]["broken"]:
        return f"{name}: not finite at step {run['marks']['broken'][name]}"
    if last is None:
        return f"{name}: no epoch was finished"
    drop, epoch = last["tasks"][name]["drop"], last["epoch"]
    if drop is None:
        return f"{name}: its loss is not finite at epoch {epoch}"
    if epoch == 1:
        loss = last["tasks"][name]["train_loss_original"]
        return f"{name}: {loss:.4g}{_unit(run, name)} after epoch 1"
    digits = 0 if abs(drop) >= 0.0995 else 1
    sign = "+" if drop < 0 else "−"
    return f"{name}: {sign}{percent(abs(drop), digits)} by epoch {epoch}"


def _note(run: Line, name: str) -> str:
    """Beside the trivial prediction."""
    if run["last_epoch"] is None:
        return ""
    task = run["last_epoch"]["tasks"][name]
    parts: list[str] = []
    for split, key in (("training", "skill"), ("validation", "val_skill")):
        skill = task[key]
        if skill is not None:
            how = "better" if skill >= 0 else "worse"
            than = "" if parts else " than the trivial prediction"
            parts.append(f"{split} {percent(abs(skill), 1)} {how}{than}")
    if (saturated := task.get("saturated") or 0) >= 0.005:
        parts.append(f"saturated for {percent(saturated)} of the elements")
    return ", ".join(parts)


def _unit(run: Line, name: str) -> str:
    unit = run["tasks"].get(name, {}).get("loss_unit")
    return f" {unit}" if unit else ""


def _known(last: Line, field: str) -> dict[str, Any]:
    return {n: t[field] for n, t in last["tasks"].items() if t[field] is not None}


def _shares(last: Line) -> str:
    shares = _known(last, "grad_share")
    if len(shares) < 2:
        return "one task has the whole gradient"
    most, least = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    if most == least:
        return f"each task has {percent(shares[most], 1)} of the gradient"
    return (
        f"{most} has {percent(shares[most])} of the gradient, {least} {percent(shares[least], 1)}"
        f" at epoch {last['epoch']}"
    )


def _weights(last: Line) -> str:
    weights = {name: value for name, value in _known(last, "weight").items() if value > 0}
    if len(weights) < 2:
        return "one weight"
    most, least = max(weights, key=weights.__getitem__), min(weights, key=weights.__getitem__)
    if most == least:
        return f"all weights are {weights[most]:.4g}"
    return (
        f"from {weights[least]:.3g} ({least}) to {weights[most]:.4g} ({most}) at epoch "
        f"{last['epoch']}"
    )


def _cosines(last: Line) -> str:
    tasks = last["tasks"]
    found = {(a, b): tasks[a].get("cosines", {}).get(b) for a, b in combinations(tasks, 2)}
    known = {pair: cosine for pair, cosine in found.items() if cosine is not None}
    if not known:
        return "not recorded by this run's version" if found else "there is one task alone"
    (a, b), lowest = min(known.items(), key=lambda item: item[1])
    told = f"{lowest:.2g}".replace("-", "−")
    if lowest < CONFLICT:
        return f"{a} and {b} pull against each other: {told} at epoch {last['epoch']}"
    return f"no conflict at epoch {last['epoch']}: the lowest is {told}, {a} and {b}"


def _marks(marks: Line) -> str:
    undone = sum(last - first for first, last in marks["superseded"])
    counts = {
        "alarm": len(marks["alarms"]),
        "resume": len(marks["resumes"]),
        "superseded step": undone,
        "checkpoint": marks["checkpoint_count"],
    }
    told = [f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n]
    return ", ".join(told) or "nothing but training"
