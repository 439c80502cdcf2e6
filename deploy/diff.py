"""`python -m deploy.diff A B`: two runs' specs and what became of them, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.command import Json, StoreUrl, out, serve
from deploy.ends import ERROR, INVALID, NOT_FOUND, OK

if TYPE_CHECKING:
    from job.spec_diff import Difference

WIDTH = 120
"""Columns where there is no terminal to ask."""


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, or a spec file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Show where two specs differ, and both runs' verdicts and losses."""
    from job.spec_diff import compared

    one, other = _read(a, store), _read(b, store)
    specs = list(compared(one["spec"], other["spec"]))
    rows = _results(one, other)
    if as_json:
        told = [{"where": d.where, "a": d.before, "b": d.now} for d in specs]
        out(
            {
                "a": a,
                "b": b,
                "spec": told,
                "results": [dict(zip("?ab", r, strict=True)) for r in rows],
            }
        )
    else:
        _print(a, b, specs, rows)


def _read(name: str, store: str | None) -> dict[str, Any]:
    """`spec`, and of a run `status` and `result`, too."""
    import json
    from pathlib import Path

    from deploy.find import find
    from job.history import read_document
    from job.read_spec import parse_spec, read_spec
    from job.store import open_store

    if Path(name).is_file():
        return {"spec": json.loads(read_spec(Path(name)).canonical())}
    found = find(name, store)
    where = open_store(found.store)
    told = where.get(f"{found.run}/spec.json").data.decode("utf-8", "replace")
    return {
        "spec": json.loads(parse_spec(told, f"{name}'s spec.json").canonical()),
        "result": read_document(where, found.run, "result.json"),
        "status": read_document(where, found.run, "status.json"),
    }


def _results(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Rows of what, A's, B's."""
    sides = [_told(one), _told(other)]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    return [(name, sides[0].get(name), sides[1].get(name)) for name in names]


def _told(side: dict[str, Any]) -> dict[str, Any]:
    from job.figures import measured

    result, status = side.get("result"), side.get("status") or {}
    told: dict[str, Any] = {}
    if result is not None:
        told |= {"reason": result["reason"], "epochs": result["epochs"], "steps": result["steps"]}
        told["seconds"] = round(result["seconds"], 1)
        for gate in result["gates"]:
            verdict = "passed" if gate["passed"] else "failed"
            told[gate["gate"]] = f"{verdict}, {measured(gate)}"
    elif status:
        told |= {"reason": f"not finished: {status['phase']}", "epochs": status.get("epoch")}
    for task, loss in (status.get("losses") or {}).items():
        told[f"loss of {task}"] = None if loss is None else float(f"{loss:.4g}")
    return told


def _spelled(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _print(a: str, b: str, specs: list[Difference], rows: list[tuple[str, Any, Any]]) -> None:
    import json

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    if not specs:
        console.print("the specs are the same")
    tables: dict[str, list[tuple[str, ...]]] = {
        "spec": [(d.where, json.dumps(d.before), json.dumps(d.now)) for d in specs],
        "result": [tuple(map(_spelled, row)) for row in rows],
    }
    for title, lines in tables.items():
        if lines:
            table = Table(title=title, title_justify="left")
            for column in ("", a, b):
                table.add_column(escape(column), overflow="fold")
            for line in lines:
                table.add_row(*map(escape, line))
            console.print(table)


if __name__ == "__main__":
    serve("diff", diff, OK, ERROR, INVALID, NOT_FOUND)
