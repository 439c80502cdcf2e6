"""The same events for a person's eyes: a bar within the epoch, a line after it, the verdict."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

Line = dict[str, Any]


class Readable:
    """Sink that shows events on a terminal; on anything else the bar is left out."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.last_epoch: Line | None = None
        self.started: Line = {}
        self.bar: Progress | None = None

    def __call__(self, event: Line, _: str) -> None:
        """Show one event; one of an unknown kind is shown by its name."""
        show = getattr(self, "_" + str(event["event"]).replace(".", "_"), None)
        if show is not None:
            show(event)
        else:
            self.console.print(f"[dim]{escape(str(event['event']))}[/]")

    def _run_started(self, e: Line) -> None:
        self.started = e
        steps, width = e["features"]
        self.console.print(
            f"[bold]{escape(e['name'])}[/] run {escape(e['run_id'])} · "
            f"{e['samples']['train']} training and {e['samples']['validation']} validation "
            f"samples of {steps} x {width} · {e['parameters']:,} parameters · "
            f"{escape(e['device'])}, {e['threads']} threads"
        )
        for reason, count in e["skipped"].items():
            self.console.print(f"[dim]left out: {count} {escape(reason)}[/]")
        if "resumed_from" in e:
            self.console.print(f"goes on after step {e['resumed_from']} of {e['steps']}")
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.bar.add_task("", total=e["steps"], completed=e.get("resumed_from", 0), epoch=1)
            self.bar.start()

    def _step(self, e: Line) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=e["step"], epoch=e["epoch"])

    def _epoch(self, e: Line) -> None:
        self.last_epoch = e
        parts = [
            f"{escape(name)} [bold]{_number(task['train_loss_original'])}[/]"
            f"[dim]/{_number(task['val_loss_original'])}[/] {_share(task['grad_share'])}"
            for name, task in e["tasks"].items()
        ]
        self.console.print(f"epoch {e['epoch']:>3}  " + "  ".join(parts))

    def _alarm(self, e: Line) -> None:
        self.console.print(f"[yellow]alarm[/] step {e['step']}: {escape(e['message'])}")

    def _checkpoint_saved(self, e: Line) -> None:
        """Part of every epoch: not worth a line."""

    def _gate(self, e: Line) -> None:
        """The verdict's table shows every gate at the end."""

    def _run_finished(self, e: Line) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.last_epoch is not None:
            self.console.print(self._summary(self.last_epoch))
        if e["gates"]:
            self.console.print(_verdict(e["gates"]))
        color = "green" if e["exit_code"] == 0 else "red"
        error = f": {escape(e['error'])}" if "error" in e else ""
        self.console.print(
            f"[{color}]{e['reason']}[/]{error} · exit {e['exit_code']} · {e['epochs']} epochs, "
            f"{e['steps']} steps, {e['seconds']:.1f} s"
        )

    def _summary(self, epoch: Line) -> Table:
        table = Table(
            title=f"after epoch {epoch['epoch']}; losses in original units, training split",
            title_justify="left",
        )
        table.add_column("task")
        for column in ("loss", "validation", "trivial", "drop", "skill", "share at z", "weight"):
            table.add_column(column, justify="right")
        for name, task in epoch["tasks"].items():
            facts = self.started.get("tasks", {}).get(name, {})
            trivial = [facts.get("baseline_constant"), facts.get("baseline_per_position")]
            known = [x for x in trivial if x is not None]
            unit = f" {facts['unit']}" if facts.get("unit") else ""
            table.add_row(
                escape(name),
                _number(task["train_loss_original"]) + escape(unit),
                _number(task["val_loss_original"]),
                _number(min(known)) if known else "",
                _percent(task["drop"]),
                _percent(task["skill"]),
                _percent(task["grad_share"]),
                _number(task["weight"]),
            )
        return table


def _verdict(gates: list[Line]) -> Table:
    table = Table(title="gates", title_justify="left")
    table.add_column("gate")
    table.add_column("measured", justify="right")
    table.add_column("verdict")
    for gate in gates:
        passed = "[green]passed[/]" if gate["passed"] else "[red]failed[/]"
        table.add_row(escape(gate["gate"]), _number(gate.get("measured")), passed)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _share(value: float | None) -> str:
    return "[dim]-[/]" if value is None else f"[cyan]{value:3.0%}[/]"
