"""The titles of a report's charts: each says in words what its chart shows."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

from job.events.log import Line
from job.show.format import (
    counted,
    format_number,
    format_percent,
    measurement,
    percent_with_error,
)
from job.show.summary_tables import worth as worth_lines

SPACE = "\N{NO-BREAK SPACE}"
PERCENT = re.compile(r"(?<!\w)-?\d[\d.]*( ± \d[\d.]*)?%")
"""A share in a sentence, with its error; not what looks like one in a task's name."""
CONFLICT = -0.1
"""Two gradients with a lower cosine are said to pull against each other."""


def titles(run: Line) -> Line:
    """The titles of a run: its verdict, each task with a note, shares, weights, cosines, marks."""
    last = run["last_epoch"]
    worth = [text.plain for text in worth_lines(run["finished"] or {})]
    charts = {"shares": _shares, "weights": _weights, "cosines": _cosines}
    return {
        "verdict": verdict(run),
        "passed": (run["finished"] or {}).get("exit_code") == 0,
        "worth": [PERCENT.sub(lambda share: typeset(share[0]), line) for line in worth],
        "tasks": {n: {"title": _task(run, n), "note": _note(run, n)} for n in run["tasks"]},
        **{
            name: title(last) if last else "no epoch was finished" for name, title in charts.items()
        },
        "marks": _marks(run["marks"]),
    }


def verdict(run: Line) -> str:
    """How the run ended, or its phase."""
    end = run["finished"]
    if end is None:
        if run["begun"] is None:
            return "not finished: no event yet"
        return f"not finished: {run['phase']}" if run["phase"] else "not finished"
    failed = [gate for gate in end["gates"] if not gate["passed"]]
    if end["reason"] in ("succeeded", "gates_failed"):
        control = "a control with permuted targets: " if end.get("control") else ""
        return control + _gates(len(end["gates"]), failed)
    error = f": {end['error']}" if end.get("error") else ""
    return f"{end['reason'].replace('_', ' ')}{error}"


def _gates(count: int, failed: list[Line]) -> str:
    if not count:
        return "succeeded; it had no gates"
    if not failed:
        return {1: "passed its gate", 2: "passed both gates"}.get(
            count, f"passed all {count} gates"
        )
    how = "failed" if count == 1 else f"failed {len(failed)} of {count} gates"
    return f"{how}: {failed[0]['gate']}: {_measurement(failed[0])}"


def _measurement(gate: Line) -> str:
    """What a gate has measured, with its unit."""
    if gate.get("measured") is None:
        return f"not measured, as {gate['why']}" if gate.get("why") else "not measured"
    return typeset(measurement(gate))


def typeset(number: str) -> str:
    """A formatted number with a minus sign, and a space before the percent sign."""
    return number.replace("-", "−").replace("%", f"{SPACE}%")


def _percent(share: float, digits: int = 0) -> str:
    return typeset(format_percent(share, digits))


def _task(run: Line, name: str) -> str:
    last = run["last_epoch"]
    if name in run["marks"]["broken"]:
        return f"{name}: not finite at step {run['marks']['broken'][name]}"
    if last is None:
        return f"{name}: no epoch was finished"
    drop, epoch = last["tasks"][name]["drop"], last["epoch"]
    if drop is None:
        return f"{name}: its loss is not finite at epoch {epoch}"
    if epoch == 1:
        loss = format_number(last["tasks"][name]["train_loss_original"])
        return f"{name}: {loss}{_unit(run, name)} after epoch 1"
    digits = 0 if 0.0995 <= abs(drop) <= 0.99 else 1
    sign = "+" if drop < 0 else "−"
    return f"{name}: loss {sign}{_percent(abs(drop), digits)} by epoch {epoch}"


def _note(run: Line, name: str) -> str:
    """How a task compares with the trivial prediction."""
    if run["last_epoch"] is None:
        return ""
    task = run["last_epoch"]["tasks"][name]
    parts: list[str] = []
    for split, key in (("training", "skill"), ("validation", "val_skill")):
        skill, error = task.get(key), task.get(f"{key}_error")
        if skill is not None:
            how = "better" if skill >= 0 else "worse"
            than = "" if parts else " than the trivial prediction"
            size = {"skill": abs(skill)} | ({} if error is None else {"error": error})
            share = typeset(percent_with_error(size, "skill", "error"))
            parts.append(f"{split} {share} {how}{than}")
    if (trivial := task.get("drop_trivial")) is not None:
        parts.append(f"a trivial prediction shows a drop of {_percent(trivial)}")
    if (saturated := task.get("saturated") or 0) >= 0.005:
        parts.append(f"saturated for {_percent(saturated)} of the elements")
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
        return f"each task has {_percent(shares[most], 1)} of the gradient"
    return (
        f"{most} has {_percent(shares[most])} of the gradient, {least} has "
        f"{_percent(shares[least], 1)} at epoch {last['epoch']}"
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
    cosines = {(a, b): tasks[a].get("cosines", {}).get(b) for a, b in combinations(tasks, 2)}
    known = {pair: cosine for pair, cosine in cosines.items() if cosine is not None}
    if not known:
        return "this run's version did not record cosines" if cosines else "there is only one task"
    (a, b), lowest = min(known.items(), key=lambda item: item[1])
    cosine = typeset(format_number(lowest, 2))
    if lowest < CONFLICT:
        return f"{a} and {b} pull against each other: cosine {cosine} at epoch {last['epoch']}"
    return f"no conflict at epoch {last['epoch']}: the lowest cosine is {cosine}, {a} and {b}"


def _marks(marks: Line) -> str:
    counts = {
        "alarm": len(marks["alarms"]),
        "resume": len(marks["resumes"]),
        "superseded step": sum(last - first for first, last in marks["superseded"]),
        "checkpoint": marks["checkpoint_count"],
    }
    return ", ".join(counted(n, name) for name, n in counts.items() if n) or "nothing but training"
