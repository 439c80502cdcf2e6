"""A plan for the eyes of the one who pays, and as JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.plan import Candidate, Plan

WIDTH = 100
"""Columns where there is no terminal to ask."""


class Facts(NamedTuple):
    """What a plan's reader should know beside it."""

    commit: str
    """Of the checkout, with `, dirty` where it has changes; or why there is none."""
    store: str
    resumable: str
    """Whether there is a run to go on with."""
    rehearsal: str
    """What became of the last local run of the same spec."""
    catalogue: str
    """Where the prices come from."""
    missing: tuple[str, ...] = ()
    """What a submission would be refused for."""


def print_plan(console: Console, plan: Plan, facts: Facts) -> None:
    """The plan block, then the candidates in the order in which they are tried."""
    wanted = plan.resources
    rows = {
        "run": f"{plan.name}/{plan.run_id}",
        "spec": f"content {plan.spec_hash[:12]}",
        "commit": facts.commit,
        "image": plan.image,
        "checkpoints": f"{facts.store} ({facts.resumable})",
        "rehearsal": facts.rehearsal,
        "start deadline": f"{wanted.start_timeout_minutes:g} min per pod, image pull included",
        "deadline": f"{plan.deadline:%Y-%m-%d %H:%M:%S} UTC, {wanted.max_hours:g} h from now",
        "price ceiling": f"${wanted.max_price_per_hour:.2f}/h for the pod, "
        f"${plan.worst_case:.2f} at most",
        "host": f"CUDA {plan.min_cuda} or newer, {wanted.disk_gb} GB disk",
        "variables": ", ".join(sorted([*plan.variables, "EVENGRAD_DEADLINE"])),
    }
    for name, value in rows.items():
        console.print(f"[bold]{name:>14}[/]  {escape(value)}", soft_wrap=True)
    console.print(_table(plan, facts))
    for line in facts.missing:
        console.print(f"[yellow]still missing[/]  {escape(line)}", soft_wrap=True)


def _table(plan: Plan, facts: Facts) -> Table:
    table = Table(title=f"candidates, in order; {facts.catalogue}", title_justify="left")
    table.add_column("#", justify="right")
    for column in ("GPU", "cloud", "stock"):
        table.add_column(column)
    for column in ("$/h", "worst case"):
        table.add_column(column, justify="right")
    table.add_column("why not")
    for i, candidate in enumerate(plan.candidates, 1):
        tried = candidate.why_not is None
        table.add_row(
            str(i) if tried else "-",
            f"{plan.resources.gpu_count} × {escape(candidate.gpu)}",
            candidate.cloud,
            candidate.stock or "?",
            *_prices(plan, candidate),
            candidate.why_not or "",
            style=None if tried else "dim",
        )
    return table


def _prices(plan: Plan, candidate: Candidate) -> tuple[str, str]:
    if candidate.price is None:
        return "?", f"≤ ${plan.worst_case:.2f}"
    return f"{candidate.price:.2f}", f"${candidate.price * plan.resources.max_hours:.2f}"


def as_json(plan: Plan, facts: Facts) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "run": f"{plan.name}/{plan.run_id}",
        "run_id": plan.run_id,
        "spec_hash": plan.spec_hash,
        "image": plan.image,
        "deadline": plan.deadline.isoformat(),
        "start_timeout_minutes": plan.resources.start_timeout_minutes,
        "max_price_per_hour": plan.resources.max_price_per_hour,
        "worst_case_usd": round(plan.worst_case, 4),
        "min_cuda": plan.min_cuda,
        "variables": sorted(plan.variables),
        **facts._asdict(),
        "candidates": [
            {
                "gpu": c.gpu,
                "cloud": c.cloud,
                "stock": c.stock,
                "price_per_hour": c.price,
                "why_not": c.why_not,
            }
            for c in plan.candidates
        ],
    }
