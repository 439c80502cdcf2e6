"""The parts of the documentation that come from code and results; `make schema` writes them.

A generated part stands between two comments in its page. Everything else is written by hand.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deploy import exits
from job.events.json_schema import ENVELOPE, schema
from job.exit_codes import MEANINGS
from job.spec.tasks import MEASURABLE, METRICS, default_metrics, metrics_of
from tests.support.benchmarks import sections
from tests.support.fields import fields, table

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

Json = dict[str, Any]


SHOWN_ELSEWHERE = {("gates", "GateResult"), ("test", "FinalTestTask")}
"""Records in an event that are described beside another one."""


def event_fields() -> str:
    """Every event as markdown: its fields with type and meaning, then those of its records."""
    whole = schema()
    parts = []
    for event in whole["oneOf"]:
        kind = event["properties"]["event"]["const"]
        parts.append(_record(f"`{kind}`", event))
        for field, name in _inner_records(event):
            heading = "A task" if field == "tasks" else f"`{field}`"
            parts.append(_record(f"{heading} in `{kind}`", whole["$defs"][name]))
    return "\n\n".join(parts)


def _inner_records(event: Json) -> Iterator[tuple[str, str]]:
    """The fields of an event that hold records, and these records' names.

    What another event has already, such as a gate's verdict, is left out.
    """
    for name, field in event["properties"].items():
        inner = field.get("items", field.get("additionalProperties", field))
        reference = inner.get("$ref", "") if isinstance(inner, dict) else ""
        if reference and (name, reference.rpartition("/")[2]) not in SHOWN_ELSEWHERE:
            yield name, reference.rpartition("/")[2]


def _record(heading: str, record: Json) -> str:
    """A record's heading, description and table of fields."""
    own = {
        name: _without_null(field)
        for name, field in record["properties"].items()
        if name not in ENVELOPE and name != "event" and not name.endswith("_nonfinite")
    }
    return f"### {heading}\n\n{' '.join(record['description'].split())}\n\n{table(own)}"


def _without_null(field: Json) -> Json:
    """The field's schema for finite numbers; that null stands for others is said once."""
    if "items" in field:
        return field | {"items": _without_null(field["items"])}
    kind = field.get("type")
    return field | {"type": kind[0]} if isinstance(kind, list) else field


def job_exit_table() -> str:
    """The exit codes of `python -m job` as markdown."""
    rows = [f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()]
    return "\n".join(["| exit code | meaning |", "|---|---|", *rows])


def deploy_exit_codes() -> dict[str, list[int]]:
    """Command of `deploy` → its exit codes: those that it hands to `run_command`, and COMMON."""
    commands = {}
    for path in sorted((ROOT / "deploy").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_command":
                name, _, *codes = _flat(node.args)
                own = [getattr(exits, ast.unparse(code)) for code in codes]
                commands[ast.literal_eval(name)] = [*exits.COMMON, *own]
    return commands


def _flat(arguments: list[ast.expr]) -> list[ast.expr]:
    """Arguments of a call, those in `*(…)` too."""
    flat: list[ast.expr] = []
    for argument in arguments:
        inner = argument.value if isinstance(argument, ast.Starred) else argument
        flat += inner.elts if isinstance(inner, ast.Tuple) else [inner]
    return flat


def deploy_exit_table() -> str:
    """The exit codes of `deploy` as markdown, each with the commands that may end with it."""
    commands = deploy_exit_codes()
    lines = ["| exit code | meaning | commands |", "|---|---|---|"]
    for code, meaning in exits.CODES.items():
        ending = [name for name, codes in commands.items() if code in codes]
        names = "all" if len(ending) == len(commands) else ", ".join(f"`{name}`" for name in ending)
        lines.append(f"| {code} | {meaning} | {names} |")
    return "\n".join(lines)


def metric_table() -> str:
    """The metrics as markdown: of which losses, what each is, and when it has a value."""
    lines = ["| metric | losses | meaning | better | has a value with |", "|---|---|---|---|---|"]
    for name, metric in METRICS.items():
        kinds = [kind for kind in KINDS if name in metrics_of(kind)]
        used = [f"**{kind}**" if name in default_metrics(kind) else kind for kind in kinds]
        better = {True: "higher", False: "lower", None: "neither"}[metric.higher_is_better]
        unit = ", in the target's unit" if metric.has_unit else ""
        lines.append(
            f"| `{name}` | {', '.join(used)} | {metric.meaning}{unit} | {better} | {metric.needs} |"
        )
    return "\n".join(lines)


KINDS = (*MEASURABLE, "others")
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "spec.md": {"spec fields": fields},
    "verdict.md": {"metrics": metric_table},
    "events.md": {"event fields": event_fields},
    "exit-codes.md": {
        "exit codes of job": job_exit_table,
        "exit codes of deploy": deploy_exit_table,
    },
    "benchmarks.md": {"results": sections},
}
"""Page of docs/ → name of each generated part → the function that writes it."""


def renewed(page: str) -> str:
    """The text of a page of docs/ with its generated parts written anew."""
    text = (DOCS / page).read_text("utf-8")
    for name, write in PARTS[page].items():
        begin, end = f"<!-- {name}: written by `make schema` -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"docs/{page} lacks the markers of {name}")
        text = f"{before}{begin}\n\n{write().strip()}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    for page in PARTS:
        (DOCS / page).write_text(renewed(page), "utf-8")
