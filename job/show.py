"""The same events for a person's eyes, as plain text: a line after each epoch, the verdict."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from job.end_tables import summary, verdict
from job.figures import counted, number, percent
from job.glyphs import ASCII, UNICODE
from job.journal import Line
from job.screen import Screen

CELL = 13
"""Characters of a task in an epoch's line: `0.000123 100%`."""


class Readable:
    """Sink that prints events as lines of text. steps: one for every step, too."""

    def __init__(self, console: Console | None = None, steps: bool = False) -> None:
        self.console = console or Screen()
        self.with_steps = steps
        self.last_epoch: Line | None = None
        self.started: Line = {}
        self.store = ""
        """Where the run is kept."""
        self.glyphs = ASCII if self.console.options.ascii_only else UNICODE
        self._columns: dict[str, int] | None = None
        """Tasks in an epoch's line, and their columns' widths; None until an epoch is shown."""

    def __call__(self, event: Line, _: str) -> None:
        """Show one event; one of an unknown kind is shown by its name."""
        show = getattr(self, "_" + str(event["event"]).replace(".", "_"), None)
        if show is not None:
            show(event)
        else:
            self._say(f"[dim]{escape(str(event['event']))}[/]")

    def introduce(self, started: Line) -> None:
        """Take in a run's start without showing it, for what comes later of it."""
        self.started, self._columns = started, None

    def say(self, text: str) -> None:
        """Print a line that is no event's."""
        self._say(escape(text))

    def conclude(self, started: Line | None, epoch: Line | None, finished: Line) -> None:
        """Print the summary and the verdict of a run that something else has shown."""
        self.started, self.last_epoch = started or {}, epoch
        self._run_finished(finished)

    def tick(self) -> None:
        """Time has passed: what is printed stands."""

    def close(self) -> None:
        """Nothing was taken that had to be given back."""

    def _say(self, text: str) -> None:
        self.console.print(self.glyphs.of(text), soft_wrap=True)

    def _run_started(self, e: Line) -> None:
        self.introduce(e)
        samples, (steps, width) = e["samples"], e["features"]
        self._say(f"[bold]{escape(e['name'])}[/] run {escape(e['run_id'])}")
        validation = counted(samples["validation"], "validation sample")
        parameters, threads = counted(e["parameters"], "parameter"), counted(e["threads"], "thread")
        self._say(
            f"{samples['train']:,} training and {validation} of {steps} x {width} · {parameters} · "
            f"{escape(e['device'])}, {threads}"
        )
        for reason, count in e["skipped"].items():
            self._say(f"[dim]left out: {count:,} {escape(reason)}[/]")
        if self.store:
            self._say(f"store {escape(self.store)}")
        if "resumed_from" in e:
            self._say(f"goes on after step {e['resumed_from']:,} of {e['steps']:,}")

    def _head(self) -> dict[str, int]:
        """Lay out the epochs' lines and print what stands above them."""
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
        self._say("[dim]by task: training loss in original units, share of the gradient at z[/]")
        self._say("epoch" + "".join(f"{name:>{width}}" for name, width in columns.items()))
        return columns

    def _step(self, e: Line) -> None:
        if self.with_steps:
            told = "  ".join(
                f"{escape(name)} [bold]{number(t, 'loss_original', 3)}[/] "
                f"[cyan]{percent(t, 'grad_share', 0)}[/]"
                for name, t in e["tasks"].items()
            )
            self._say(f"[dim]step {e['step']:,} lr {e['lr']:.3g}[/]  {told}")

    def _epoch(self, e: Line) -> None:
        self.last_epoch = e
        if self._columns is None:
            self._columns = self._head()
        tasks = e["tasks"]
        line = f"{e['epoch']:>5}"
        for name, width in self._columns.items():
            loss = number(tasks[name], "train_loss_original", 3)
            share = percent(tasks[name], "grad_share", 0)
            line += f"[bold]{loss:>{width - 5}}[/][cyan]{share:>5}[/]"
        if left := len(tasks) - len(self._columns):
            least = min(tasks, key=lambda name: _rank(tasks[name]["grad_share"]))
            share = percent(tasks[least], "grad_share", 0)
            line += f" [dim]+{left}, least: {escape(least)} {share}[/]"
        self._say(line)

    def _alarm(self, e: Line) -> None:
        self._say(f"[yellow]alarm[/] step {e['step']:,}, {e['kind']}: {escape(e['message'])}")

    def _superseded(self, e: Line) -> None:
        """The start of this attempt has told where it goes on."""

    def _checkpoint_saved(self, e: Line) -> None:
        """Part of every epoch: not worth a line."""

    def _gate(self, e: Line) -> None:
        """The verdict's table shows every gate at the end."""

    def _run_finished(self, e: Line) -> None:
        width = self.console.width
        if self.last_epoch is not None:
            self.console.print(summary(self.started, self.last_epoch, width, self.glyphs))
        if e["gates"]:
            self.console.print(verdict(e["gates"], width))
        color = "green" if e["exit_code"] == 0 else "red"
        error = f": {escape(e['error'])}" if "error" in e else ""
        self._say(
            f"[{color}]{e['reason']}[/]{error} · exit {e['exit_code']} · "
            f"{counted(e['epochs'], 'epoch')}, {counted(e['steps'], 'step')}, {e['seconds']:.1f} s"
        )


def _rank(share: float | None) -> float:
    return 1.0 if share is None else share
