"""`python -m deploy.diff A B`: the specs of two runs and how the runs ended, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.app import run_command
from deploy.exits import NO_ACCESS, NOT_FOUND
from deploy.options import Json, StoreUrl
from deploy.output import print_json

if TYPE_CHECKING:
    from job.record.result import Result
    from job.record.status import Status
    from job.spec.diff import Difference

Row = tuple[str, Any, Any]
"""A fact's name, and its value in A and in B."""


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, or a spec file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Show where two specs differ, and both runs' verdicts and losses."""
    from job.spec.diff import differences

    one, other = _read(a, store), _read(b, store)
    specs = differences([one["spec"], other["spec"]])
    rows = _results(one, other)
    if as_json:
        changes = [{"where": where, "a": before, "b": now} for where, (before, now) in specs]
        results = [dict(zip("?ab", row, strict=True)) for row in rows]
        print_json({"a": a, "b": b, "spec": changes, "results": results})
    else:
        _print(a, b, specs, rows)


def _read(name: str, store: str | None) -> dict[str, Any]:
    """The `spec` of a file or run, and a run's `status` and `result`."""
    import json
    from pathlib import Path

    from deploy.runs.locate import locate
    from job.record.result import Result
    from job.record.status import Status
    from job.spec.read import read_spec
    from job.spec.stored import parse_stored
    from job.store import open_store

    if Path(name).is_file():
        return {"spec": json.loads(read_spec(Path(name)).canonical())}
    ref = locate(name, store)
    opened = open_store(ref.store)
    text = opened.get(f"{ref.run}/spec.json").data.decode("utf-8", "replace")
    return {
        "spec": json.loads(parse_stored(text, f"{name}'s spec.json").canonical()),
        "result": Result.read(opened, ref.run),
        "status": Status.read(opened, ref.run),
    }


def _results(one: dict[str, Any], other: dict[str, Any]) -> list[Row]:
    """How the two runs ended, a row for each fact."""
    sides = [_facts(one), _facts(other)]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    return [(name, sides[0].get(name), sides[1].get(name)) for name in names]


def _facts(side: dict[str, Any]) -> dict[str, Any]:
    """How one run ended, by the fact's name."""
    from job.show.format import measurement

    result: Result | None = side.get("result")
    status: Status | None = side.get("status")
    facts: dict[str, Any] = {}
    if result is not None:
        facts |= {"reason": result.reason, "epochs": result.epochs, "steps": result.steps}
        facts["seconds"] = round(result.seconds, 1)
        for gate in result.gates:
            verdict = "passed" if gate.passed else "failed"
            facts[gate.gate] = f"{verdict}, {measurement(gate.model_dump())}"
    elif status is not None:
        facts |= {"reason": f"not finished: {status.phase}", "epochs": status.epoch}
    for task, loss in (status.losses if status else {}).items():
        facts[f"loss of {task}"] = None if loss is None else float(f"{loss:.4g}")
    return facts


def _format(value: Any) -> str:
    from job.show.format import format_number

    if isinstance(value, float):
        return format_number(value)
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _print(a: str, b: str, specs: list[Difference], rows: list[Row]) -> None:
    import json

    from rich.table import Table

    from job.show.console import WIDE_PAGE, Screen, literal

    console = Screen(WIDE_PAGE)
    if not specs:
        console.print("the specs are the same")
    tables: dict[str, list[tuple[str, ...]]] = {
        "spec": [(where, *map(json.dumps, values)) for where, values in specs],
        "result": [tuple(map(_format, row)) for row in rows],
    }
    for title, lines in tables.items():
        if lines:
            table = Table(title=title, title_justify="left")
            for column in ("", a, b):
                table.add_column(literal(column), overflow="fold")
            for line in lines:
                table.add_row(*map(literal, line))
            console.print(table)


if __name__ == "__main__":
    run_command("diff", diff, NO_ACCESS, NOT_FOUND)
