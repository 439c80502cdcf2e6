"""A plan on the screen, for the person who pays, and as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from deploy.output import print_json
from deploy.plan.plan import Candidate, Plan
from job.show.console import Screen, literal


class PlanContext(NamedTuple):
    """What a plan's reader should know beside it."""

    commit: str
    """Of the checkout, with `, dirty` if files differ from it; or why there is none."""
    store: str
    resumable: str
    """Which checkpoint the run would resume from."""
    rehearsal: str
    """How the last local run of the same spec ended."""
    catalogue: str
    """Where the prices come from."""
    missing: tuple[str, ...] = ()
    """Why a submission would be refused."""


def show_plan(
    plan: Plan, context: PlanContext, *, as_json: bool, dry_run: bool, request: bool
) -> None:
    """Print the plan, and the first request if that is wanted.

    as_json: stdout is for JSON, so the plan goes to stderr; in a dry run it is the JSON itself.
    """
    first = next((c for c in plan.candidates if c.why_not is None), None)
    body = plan.redacted_request(first, 1) if request and first is not None else None
    if as_json and dry_run:
        print_json(plan_json(plan, context) | ({} if body is None else {"request": body}))
        return
    print_plan(Screen(stderr=as_json), plan, context)
    if body is not None:
        print(json.dumps(body, indent=2), file=sys.stderr if as_json else sys.stdout)


def print_plan(console: Console, plan: Plan, context: PlanContext) -> None:
    """Print the plan's facts, then the candidates in the order in which they are tried."""
    wanted = plan.resources
    rows = {
        "run": f"{plan.name}/{plan.run_id}",
        "spec": f"content {plan.spec_hash[:12]}",
        "commit": context.commit,
        "image": plan.image,
        "checkpoints": f"{context.store} ({context.resumable})",
        "rehearsal": context.rehearsal,
        "start deadline": f"{wanted.start_timeout_minutes:g} min per pod, image pull included",
        "deadline": f"{plan.deadline:%Y-%m-%d %H:%M:%S} UTC, {wanted.max_hours:g} h from now",
        "price ceiling": f"${wanted.max_price_per_hour:.2f}/h for the pod, "
        f"${plan.worst_case:.2f} at most",
        "host": f"CUDA {plan.min_cuda} or newer, {wanted.disk_gb} GB disk",
        "variables": ", ".join(sorted([*plan.variables, "EVENGRAD_DEADLINE"])),
    }
    for name, value in rows.items():
        console.print(f"[bold]{name:>14}[/]  {literal(value)}", soft_wrap=True)
    console.print(_table(plan, context))
    for line in context.missing:
        console.print(f"[yellow]still missing[/]  {literal(line)}", soft_wrap=True)


def _table(plan: Plan, context: PlanContext) -> Table:
    title = f"candidates, in order; {literal(context.catalogue)}"
    table = Table(title=title, title_justify="left")
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
            f"{plan.resources.gpu_count} × {literal(candidate.gpu)}",
            candidate.cloud,
            literal(candidate.stock or "?"),
            *_prices(plan, candidate),
            candidate.why_not or "",
            style=None if tried else "dim",
        )
    return table


def _prices(plan: Plan, candidate: Candidate) -> tuple[str, str]:
    """USD per hour, and at most."""
    if candidate.price is None:
        return "?", f"≤ ${plan.worst_case:.2f}"
    return f"{candidate.price:.2f}", f"${candidate.price * plan.resources.max_hours:.2f}"


def plan_json(plan: Plan, context: PlanContext) -> dict[str, Any]:
    """The plan as JSON values."""
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
        **context._asdict(),
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
