"""A run's events as plain lines of text: a line after each epoch, and the verdict at the end."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from job.events.log import Line
from job.show.console import Screen, literal
from job.show.format import counted, number, peculiarities, percent, shape
from job.show.glyphs import ASCII, UNICODE
from job.show.summary_tables import metrics, on_test, summary, verdict, worth

CELL = 13
"""Characters of a task in an epoch's line: `0.000123 100%`."""
QUIET = frozenset({"superseded", "checkpoint.saved", "gate", "predictions", "test"})
"""Kinds without a line: the start of an attempt, every epoch and the verdict say as much."""


class Readable:
    """Sink that prints events as lines of text; a line for every step, too, if `steps`."""

    def __init__(self, console: Console | None = None, steps: bool = False) -> None:
        self.console = console or Screen()
        self.with_steps = steps
        self.last_epoch: Line | None = None
        self.started: Line = {}
        self.store = ""
        """Where the run is kept."""
        self.glyphs = ASCII if self.console.options.ascii_only else UNICODE
        self._columns: dict[str, int] | None = None
        """Tasks in an epoch's line, and their columns' widths; None until an epoch is printed."""

    def __call__(self, event: Line, _: str) -> None:
        """Print one event; an event of an unknown kind is printed as the name of its kind."""
        kind = str(event["event"])
        if handler := HANDLERS.get(kind):
            handler(self, event)
        elif kind not in QUIET:
            self._print(f"[dim]{literal(kind)}[/]")

    def introduce(self, started: Line) -> None:
        """Take in the start of a run without printing it: later events need its facts."""
        self.started, self._columns = started, None

    def print_text(self, text: str) -> None:
        """Print a line that belongs to no event."""
        self._print(literal(text))

    def conclude(self, started: Line | None, epoch: Line | None, finished: Line) -> None:
        """Print the summary and the verdict of a run that another sink has displayed."""
        self.started, self.last_epoch = started or {}, epoch
        self._run_finished(finished)

    def tick(self) -> None:
        """Do nothing as time passes: printed lines stay as they are."""

    def close(self) -> None:
        """Do nothing: the terminal is as it was."""

    def _print(self, text: str) -> None:
        """Print one line of markup."""
        self.console.print(self.glyphs.replace(text), soft_wrap=True)

    def _run_started(self, e: Line) -> None:
        self.introduce(e)
        samples = e["samples"]
        control = ", a control: its targets are permuted" if e.get("control") else ""
        self._print(f"[bold]{literal(e['name'])}[/] run {literal(e['run_id'])}{control}")
        validation = counted(samples["validation"], "validation sample")
        parameters, threads = counted(e["parameters"], "parameter"), counted(e["threads"], "thread")
        each = f"{samples['train']:,} training and {validation} of {literal(shape(e))}"
        self._print(f"{each} · {parameters} · {literal(e['device'])}, {threads}")
        for reason, count in e["skipped"].items():
            self._print(f"[dim]{literal(reason)}: {count:,}[/]")
        if more := peculiarities(e):
            self._print(literal(self.glyphs.dot.join(more)))
        if self.store:
            self._print(f"store {literal(self.store)}")
        if "resumed_from" in e:
            self._print(f"goes on after step {e['resumed_from']:,} of {e['steps']:,}")

    def _print_header(self) -> dict[str, int]:
        """Print what stands above the epochs' lines; returns the widths of the tasks that fit."""
        tasks = list(self.started["tasks"])
        widths = {name: max(len(name), CELL) + 2 for name in tasks}
        room = self.console.width - len("epoch")
        if sum(widths.values()) > room:
            room -= len(f" +{len(tasks)}, least: ") + max(map(len, tasks)) + len(" 100%")
        columns: dict[str, int] = {}
        for name, width in widths.items():
            if (room := room - width) < 0:
                break
            columns[name] = width
        self._print("[dim]by task: training loss in original units, share of the gradient at z[/]")
        self._print(
            literal("epoch" + "".join(f"{name:>{width}}" for name, width in columns.items()))
        )
        return columns

    def _step(self, e: Line) -> None:
        if self.with_steps:
            tasks = "  ".join(
                f"{literal(name)} [bold]{number(task, 'loss_original', 3)}[/] "
                f"[cyan]{percent(task, 'grad_share', 0)}[/]"
                for name, task in e["tasks"].items()
            )
            self._print(f"[dim]step {e['step']:,} lr {e['lr']:.3g}[/]  {tasks}")

    def _epoch(self, e: Line) -> None:
        self.last_epoch = e
        if self._columns is None:
            self._columns = self._print_header()
        tasks = e["tasks"]
        line = f"{e['epoch']:>5}"
        for name, width in self._columns.items():
            loss = number(tasks[name], "train_loss_original", 3)
            share = percent(tasks[name], "grad_share", 0)
            room = width - 2 - max(len(share), 4)  # both numbers stay apart, however long they are
            line += f" [bold]{loss:>{room}}[/] [cyan]{share:>4}[/]"
        if left := len(tasks) - len(self._columns):
            least = min(tasks, key=lambda name: _rank(tasks[name]["grad_share"]))
            share = percent(tasks[least], "grad_share", 0)
            line += f" [dim]+{left}, least: {literal(least)} {share}[/]"
        self._print(line)

    def _alarm(self, e: Line) -> None:
        text = f"step {e['step']:,}, {e['kind']}: {e['message']}"
        self._print(f"[yellow]alarm[/] {literal(text)}")

    def _run_finished(self, e: Line) -> None:
        width = self.console.width
        if self.last_epoch is not None:
            self.console.print(summary(self.started, self.last_epoch, width, self.glyphs))
            if line := metrics(self.started, self.last_epoch):
                self._print(literal(self.glyphs.replace(line)))
        for text in worth(e):
            self._print(f"[{text.style}]{literal(text.plain)}[/]")
        if line := on_test(self.started, e):
            self._print(literal(self.glyphs.replace(line)))
        if e["gates"]:
            self.console.print(verdict(e["gates"], width, self.glyphs))
        color = "green" if e["exit_code"] == 0 else "red"
        error = f": {literal(e['error'])}" if "error" in e else ""
        self._print(
            f"[{color}]{literal(e['reason'])}[/]{error} · exit {e['exit_code']} · "
            f"{counted(e['epochs'], 'epoch')}, {counted(e['steps'], 'step')}, {e['seconds']:.1f} s"
        )


HANDLERS: dict[str, Callable[[Readable, Line], None]] = {
    "run.started": Readable._run_started,
    "step": Readable._step,
    "epoch": Readable._epoch,
    "alarm": Readable._alarm,
    "run.finished": Readable._run_finished,
}


def _rank(share: float | None) -> float:
    """A share to sort by; one that is not known is not the smallest."""
    return 1.0 if share is None else share
