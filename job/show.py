"""The same events for a person's eyes, as plain text: a line after each epoch, the verdict."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from job.journal import Line, discard_stdout

CELL = 13
"""Characters of a task in an epoch's line: `0.000123 100%`."""
PAGE = 100
"""Columns where there is no terminal to ask."""


class Screen(Console):
    """stdout; a run outlives its reader."""

    def __init__(self) -> None:
        super().__init__(highlight=False)
        if not self.is_terminal:
            self.width = PAGE

    def on_broken_pipe(self) -> None:
        """Print no more."""
        self.quiet = True
        discard_stdout()


class Readable:
    """Sink that prints events as lines of text. steps: one for every step, too."""

    def __init__(self, console: Console | None = None, steps: bool = False) -> None:
        self.console = console or Screen()
        self.with_steps = steps
        self.last_epoch: Line | None = None
        self.started: Line = {}
        self.columns: dict[str, int] = {}
        """Tasks in an epoch's line, and their columns' widths."""

    def __call__(self, event: Line, _: str) -> None:
        """Show one event; one of an unknown kind is shown by its name."""
        show = getattr(self, "_" + str(event["event"]).replace(".", "_"), None)
        if show is not None:
            show(event)
        else:
            self._say(f"[dim]{escape(str(event['event']))}[/]")

    def introduce(self, started: Line) -> None:
        """Take in a run's start without showing it, for what comes later of it."""
        self.started = started
        self._head()

    def conclude(self, started: Line | None, epoch: Line | None, finished: Line) -> None:
        """Print the summary and the verdict of a run that something else has shown."""
        self.started, self.last_epoch = started or {}, epoch
        self._run_finished(finished)

    def tick(self) -> None:
        """Time has passed: what is printed stands."""

    def close(self) -> None:
        """Nothing was taken that had to be given back."""

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _run_started(self, e: Line) -> None:
        self.started = e
        steps, width = e["features"]
        self._say(f"[bold]{escape(e['name'])}[/] run {escape(e['run_id'])}")
        self._say(
            f"{e['samples']['train']} training and {e['samples']['validation']} validation "
            f"samples of {steps} x {width} · {e['parameters']:,} parameters · "
            f"{escape(e['device'])}, {e['threads']} threads"
        )
        for reason, count in e["skipped"].items():
            self._say(f"[dim]left out: {count} {escape(reason)}[/]")
        if "resumed_from" in e:
            self._say(f"goes on after step {e['resumed_from']} of {e['steps']}")
        self._head()

    def _head(self) -> None:
        """Lay out the epochs' lines and print what stands above them."""
        tasks = list(self.started["tasks"])
        widths = {name: max(len(name), CELL) + 2 for name in tasks}
        room = self.console.width - len("epoch")
        if sum(widths.values()) > room:
            room -= len(f" +{len(tasks)}, least: ") + max(map(len, tasks)) + len(" 100%")
        self.columns = {}
        for name, width in widths.items():
            if (room := room - width) < 0:
                break
            self.columns[name] = width
        self._say("[dim]by task: training loss in original units, share of the gradient at z[/]")
        self._say("epoch" + "".join(f"{name:>{width}}" for name, width in self.columns.items()))

    def _step(self, e: Line) -> None:
        if self.with_steps:
            told = "  ".join(
                f"{escape(name)} [bold]{_number(t['loss_original'], 3)}[/] "
                f"[cyan]{_percent(t['grad_share'], 0)}[/]"
                for name, t in e["tasks"].items()
            )
            self._say(f"[dim]step {e['step']} lr {e['lr']:.3g}[/]  {told}")

    def _epoch(self, e: Line) -> None:
        self.last_epoch = e
        tasks = e["tasks"]
        line = f"{e['epoch']:>5}"
        for name, width in self.columns.items():
            loss, share = _number(tasks[name]["train_loss_original"], 3), tasks[name]["grad_share"]
            line += f"[bold]{loss:>{width - 5}}[/][cyan]{_percent(share, 0):>5}[/]"
        if left := len(tasks) - len(self.columns):
            least = min(tasks, key=lambda name: _rank(tasks[name]["grad_share"]))
            share = _percent(tasks[least]["grad_share"], 0)
            line += f" [dim]+{left}, least: {escape(least)} {share}[/]"
        self._say(line)

    def _alarm(self, e: Line) -> None:
        self._say(f"[yellow]alarm[/] step {e['step']}: {escape(e['message'])}")

    def _superseded(self, e: Line) -> None:
        """The start of this attempt has told where it goes on."""

    def _checkpoint_saved(self, e: Line) -> None:
        """Part of every epoch: not worth a line."""

    def _gate(self, e: Line) -> None:
        """The verdict's table shows every gate at the end."""

    def _run_finished(self, e: Line) -> None:
        if self.last_epoch is not None:
            self.console.print(self._summary(self.last_epoch))
        if e["gates"]:
            self.console.print(_verdict(e["gates"]))
        color = "green" if e["exit_code"] == 0 else "red"
        error = f": {escape(e['error'])}" if "error" in e else ""
        self._say(
            f"[{color}]{e['reason']}[/]{error} · exit {e['exit_code']} · {e['epochs']} epochs, "
            f"{e['steps']} steps, {e['seconds']:.1f} s"
        )

    def _summary(self, epoch: Line) -> Table:
        what = "losses in original units, share of the gradient at z"
        table = Table(title=f"after epoch {epoch['epoch']}; {what}", title_justify="left")
        table.add_column("task")
        columns = ("loss", "trivial", "skill", "drop", "val. loss", "val. skill")
        for column in (*columns, "share", "weight"):
            table.add_column(column, justify="right")
        for name, task in epoch["tasks"].items():
            facts = self.started.get("tasks", {}).get(name, {})
            trivial = [facts.get("baseline_constant"), facts.get("baseline_per_position")]
            known = [x for x in trivial if x is not None]
            unit = f", {facts['loss_unit']}" if facts.get("loss_unit") else ""
            table.add_row(
                escape(name + unit),
                _number(task["train_loss_original"]),
                _number(min(known)) if known else "",
                _percent(task["skill"]),
                _percent(task["drop"]),
                _number(task["val_loss_original"]),
                _percent(task["val_skill"]),
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
        measured = (_percent if gate["unit"] == "share" else _number)(gate.get("measured"))
        table.add_row(escape(gate["gate"]), measured, passed)
    return table


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _rank(share: float | None) -> float:
    return 1.0 if share is None else share
