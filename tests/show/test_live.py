"""The live screen: what a person sees of a run on any terminal, and what stays there at the end."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from rich.cells import cell_len

from job.events.log import Line
from job.show.frame import PodCost, ScreenContext, frame
from job.show.glyphs import ASCII, UNICODE, Viewport, bar, curve
from job.show.live import PAUSE, Live
from job.show.progress import POINTS, Progress
from tests.support.command import JOB, ROOT
from tests.support.fake_history import EPOCHS, STEPS, Recorded
from tests.support.simulated_user import Renting
from tests.support.terminal import Painted, Terminal
from tests.support.tiny_job import write

FOUR = ("type", "pointers", "binary", "countdown")
MANY = tuple(f"task_{k}" for k in range(32))
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
COST = PodCost(0.25, 0.0123, NOW + timedelta(minutes=57))
COLOUR = re.compile(rb"\x1b\[(\d+;)*(3[0-8]|4[0-8]|9[0-7]|10[0-7])(;\d+)*m")

Play = Callable[[Painted, list[Line]], Live]
PAINTED = 10
"""Events of a played run after which it is painted, the last ones."""


def folded(lines: list[Line]) -> Progress:
    progress = Progress()
    for line in lines:
        progress.take(line)
    return progress


def half(*tasks: str, **values: float) -> Recorded:
    """A run in the middle of its sixth epoch."""
    run = Recorded(*tasks)
    run.begin()
    run.train(STEPS * 5 + 7, **values)
    return run


def screen(
    run: Recorded, width: int = 79, height: int | None = 24, unicode: bool = True, **context: object
) -> list[str]:
    """The lines of a screen."""
    around = ScreenContext(NOW, **context)  # type: ignore[arg-type]  # the tests' own
    view = Viewport(width, height, unicode)
    return [line.plain for line in frame(folded(run.lines), view, around)]


def row(lines: list[str], task: str) -> str:
    (line,) = [line for line in lines if re.match(rf"(! )?{task}\b", line)]
    return line


class TestFrame:
    def test_has_the_progress_of_the_run(self) -> None:
        """Epoch, steps of all steps, and the time left at the pace so far."""
        lines = screen(half(*FOUR))
        assert lines[0].startswith("jade run r1 · cpu (x86_64), 2 threads · 168 samples")
        assert lines[1].startswith("epoch 6 of 10 ━")
        assert "─ 107/200 steps · 0:01:" in lines[1]  # an event a second, 93 steps, 4 epochs

    def test_has_a_row_for_each_task(self) -> None:
        """Loss in original units, its curve, drop beside the trivial one, skill on the validation
        split with its error, share as number and bar, weight."""
        line = row(screen(half(*FOUR), width=90), "countdown")
        name, loss, drawn_loss, drop, trivial, *skill, share, drawn, weight = line.split()
        assert (name, loss, drop, trivial, " ".join(skill), share, weight) == (
            *("countdown", "0.75", "12.3%", "10.0%", "-45.6 ± 5.0%", "40%", "2.5"),
        )
        assert drawn_loss == "█▆▅▃▁"
        assert set(drawn) <= set(UNICODE.parts)

    def test_share_and_weight_are_the_newest_steps(self) -> None:
        """Right after an epoch, too, although the epoch has means of its own."""
        run = Recorded(*FOUR)
        run.begin()
        run.train(2 * STEPS)
        run.lines[-1]["tasks"]["countdown"] |= {"weight": 99.0, "grad_share": 0.01}
        assert run.lines[-1]["event"] == "epoch"
        *_, share, _, weight = row(screen(run, width=90), "countdown").split()
        assert (share, weight) == ("40%", "2.5")

    def test_a_loss_has_its_own_unit(self) -> None:
        """It is not the target's; it has characters that the terminal has."""
        run = half("a", "b")
        run.lines[0]["tasks"]["b"] |= {"unit": "bars", "loss_unit": "bars²"}
        assert row(screen(run), "b").startswith("b, bars² ")
        assert row(screen(run, unicode=False), "b").startswith("b, bars^2 ")

    def test_a_control_says_that_it_is_one(self) -> None:
        """In the first line of the screen, before what a narrow terminal leaves out."""
        run = half(*FOUR)
        run.lines[0]["control"] = True
        assert screen(run, width=45)[0] == "jade run r1 · control: targets permuted"
        assert "control" not in "".join(screen(half(*FOUR)))

    def test_counts_have_their_plurals(self) -> None:
        """One thread, one step; thousands have a comma."""
        run = Recorded("a")
        run.begin()
        run.lines[0] |= {"threads": 1, "steps": 1260}
        run.train(1)
        run.save()
        run.train(1)
        lines = screen(run)
        assert "1 thread ·" in lines[0]
        assert "2/1,260 steps" in lines[1]
        assert "checkpoint at step 1, 1 step ago" in "".join(lines)

    @pytest.mark.parametrize("width", [20, 30, 45])
    def test_a_narrow_terminal_cuts_no_number(self, width: int) -> None:
        """Facts are broken between words; long percentages get the space that they need."""
        run = half(*FOUR, val_skill=-1234.567)
        run.save()
        text = "\n".join(screen(run, width))
        assert "…" not in "".join(line for line in screen(run, width)[1:])
        assert ("-123456.7 ± 5.0%" in text) == (width == 45)
        assert "378 kB" in text
        assert re.search(r"5[34]%", text)

    def test_has_speed_checkpoint_store_and_pod(self) -> None:
        """What an operator looks for is below the table; the cost is there if there is a pod."""
        run = half(*FOUR)
        assert "step 12.5 ms · 1,234 samples/s · no checkpoint yet" in screen(run)
        run.save()
        run.train(3)
        run.gate(passed=True)
        lines = screen(run, width=100, store="s3://bucket/runs", cost=COST)
        assert lines[-4:] == [
            "step 12.5 ms · 1,234 samples/s · checkpoint at step 107, 3 steps ago, 378 kB",
            "pod $0.25/h · spent $0.01 · deadline 12:57:00 UTC, in 0:57:00",
            "gates: 1 passed",
            "store s3://bucket/runs",
        ]
        lines = screen(run, width=100, store="s3://bucket/runs", offline=12.0)
        assert (
            "store out of reach for 12 s, events are kept on this machine: s3://bucket/runs"
            in lines
        )
        assert not any("pod" in line for line in lines)

    @pytest.mark.parametrize("unicode", [True, False])
    @pytest.mark.parametrize("height", [8, 24, 50, None])
    @pytest.mark.parametrize("width", [40, 80, 160])
    @pytest.mark.parametrize("tasks", [("a",), FOUR, MANY, ("x" * 64, "温度", "z")])
    def test_fits_any_terminal(
        self, tasks: tuple[str, ...], width: int, height: int | None, unicode: bool
    ) -> None:
        """Never wider, never higher, tasks are there; only ASCII if the terminal has no more."""
        run = half(*tasks)
        for _ in range(5):
            run.alarm(tasks[-1])
        lines = screen(run, width, height, unicode, store="s3://bucket/runs", cost=COST)
        fixed = [line for line in lines if not line.startswith("! step")]  # whole at the end
        assert max(map(cell_len, fixed)) <= width
        assert height is None or len(lines) <= height
        assert sum(line.startswith("! step") for line in lines) == (
            {8: 0, None: 5}.get(height, 3) if len(tasks) < 32 or height != 8 else 0
        )
        assert any(line.startswith(f"! {tasks[-1][:4]}") for line in lines)
        if not unicode and tasks[1:2] != ("温度",):
            assert "".join(lines).isascii()

    @pytest.mark.parametrize("height", range(1, 8))
    def test_a_terminal_of_a_few_lines(self, height: int) -> None:
        """The progress comes first, then the tasks; nothing is drawn below the edge."""
        run = half(*FOUR)
        run.alarm("type")
        lines = screen(run, 80, height, store="runs")
        assert 1 <= len(lines) <= height
        assert lines[0].startswith("jade run r1")
        assert height < 6 or row(lines, "type")

    @pytest.mark.parametrize(
        ("width", "titles"),
        [
            (40, "task loss val. skill share"),
            (60, "task loss by epoch drop val. skill share"),
            (80, "task loss by epoch drop trivial val. skill share weight"),
        ],
    )
    def test_hides_columns_that_do_not_fit(self, width: int, titles: str) -> None:
        """The narrower the terminal, the fewer columns; loss, share and skill stay."""
        assert screen(half(*FOUR), width)[2].split() == titles.split()

    def test_many_tasks_on_a_low_terminal(self) -> None:
        """Tasks with alarms and with the smallest shares are visible, the others are counted."""
        run = half(*MANY)
        run.alarm("task_31")
        lines = screen(run)
        rows = [line.split()[0] for line in lines if line.startswith("task_")]
        assert rows == list(MANY[: len(rows)])
        assert row(lines, "task_31").startswith("! task_31")
        left = 31 - len(rows)
        smallest, largest = ((k + 1) / (16 * 33) for k in (len(rows), 30))
        assert f"and {left} more, shares {smallest:.1%} to {largest:.1%}" in lines
        assert len(lines) <= 24

    def test_alarms_are_named_at_their_task(self) -> None:
        """A task has a mark that needs no colour, and the kind if it fits; the newest are below."""
        run = half(*FOUR)
        for kind in ("loss_saturated", "sigma_frozen", "conflict", "task_starving"):
            run.alarm("binary", kind)
        lines = screen(run, width=160)
        assert row(lines, "binary").endswith("task starving")
        below = [line for line in lines if line.startswith("! step 107, ")]
        assert [line.split()[3] for line in below] == [
            "sigma_frozen:",
            "conflict:",
            "task_starving:",
        ]
        assert "4 alarms" in lines[-1]
        assert sum("0.1%" in line for line in screen(run, height=None)) == 4

    def test_what_is_not_finite_is_visible(self) -> None:
        """It is nan, and a cross in the curve, not a gap."""
        run = half("a", "b", train_loss_original=math.inf, weight=math.nan, grad_share=math.nan)
        line = row(screen(run), "b")
        told = ["12.3%", "10.0%", "-45.6", "±", "5.0%"]
        assert line.split() == ["b", "nan", "xxxxx", *told, "nan", "nan"]

    def test_before_the_first_epoch(self) -> None:
        """The loss is the batch's, its curve is by step; what only an epoch has is a dash."""
        run = Recorded(*FOUR)
        assert screen(run) == ["waiting for the run to begin"]
        run.begin()
        assert row(screen(run), "type").split() == ["type", *"-----"]
        run.train(3)
        lines = screen(run)
        assert lines[1].startswith("epoch 1 ")
        assert row(lines, "type").split()[1:5] == ["3.97", "█▄▁", "-", "-"]

    def test_two_epochs_of_steps_become_a_curve_by_epoch(self) -> None:
        """From the second epoch on the curve is by epoch."""
        run = Recorded("a")
        run.begin()
        run.train(STEPS)
        assert "by step" in screen(run)[2]
        run.train(STEPS)
        assert "by epoch" in screen(run)[2]
        assert "█▁" in row(screen(run), "a")


class TestProgress:
    def test_a_resume_undoes_what_it_supersedes(self) -> None:
        """The curve ends at the checkpoint; alarms stay; the pace is this attempt's."""
        run = half(*FOUR)
        run.alarm("type")
        run.resume(2 * STEPS)
        progress = folded(run.lines)
        assert len(progress.curve("type")) == 2
        assert (progress.step_count, progress.epoch_number) == (2 * STEPS, 2)
        assert progress.seconds_left is None
        assert progress.alarm_count == 1
        run.train(STEPS)
        progress = folded(run.lines)
        assert len(progress.curve("type")) == 3
        assert progress.seconds_left == pytest.approx(7 * STEPS * (STEPS + 0.05) / STEPS, rel=0.1)

    def test_a_resumed_process_begins_at_the_checkpoint(self) -> None:
        """It has only its own events: the bar starts at the checkpoint, drops are the run's."""
        run = half(*FOUR)
        before = len(run.lines)
        run.resume(5 * STEPS)
        run.train(STEPS)
        rest = folded(run.lines[before:])
        assert rest.step_count == 6 * STEPS
        assert rest.epoch_count == EPOCHS
        assert rest.after_epoch("type")["drop"] == 0.123

    def test_holds_little_of_a_long_run(self) -> None:
        """Curves are thinned evenly; the first and the newest point stay."""
        run = Recorded("a", epochs=300)
        run.begin()
        progress = Progress()
        for _ in range(300):
            run.train(STEPS)
        for line in run.lines:
            progress.take(line)
        drawn = progress.curve("a")
        assert len(drawn) <= POINTS + 1
        losses = [
            e["tasks"]["a"]["train_loss_original"] for e in run.lines if e["event"] == "epoch"
        ]
        assert (drawn[0], drawn[-1]) == (losses[0], losses[-1])
        gaps = [losses.index(b) - losses.index(a) for a, b in pairwise(drawn[:-1])]
        assert len(set(gaps)) == 1

    def test_an_event_of_a_later_version(self) -> None:
        """It changes nothing, and is no error."""
        Progress().take({"event": "moon.rises"})


class TestGlyphs:
    def test_a_curve_spans_its_own_range(self) -> None:
        """It goes from the lowest character to the highest; a constant one is low."""
        assert curve([0, 1, 2, 3, 4, 5, 6, 7], 8, UNICODE) == "▁▂▃▄▅▆▇█"
        assert curve([3.0, 3.0], 8, ASCII) == ".."
        assert curve([], 8, UNICODE) == ""

    def test_a_curve_hides_no_explosion(self) -> None:
        """One value that is not finite marks its character."""
        assert curve([1.0] * 50 + [math.nan] + [1.0] * 49, 10, ASCII) == ".....x...."
        assert curve([1.0, None], 10, ASCII) == ".x"

    def test_a_bar_is_as_long_as_its_share(self) -> None:
        """Nothing has no bar, any share has some, 1 and more have the whole."""
        made = [bar(share, 8, UNICODE) for share in (None, math.nan, 0.0, 1e-6, 0.5, 1.0, 1.5)]
        assert made == ["", "", "", "▏", "████", "████████", "████████"]


class Clock:
    """Time that stands still unless a test moves it."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def play() -> Iterator[Play]:
    """Displays events; the clock makes a painting due after each of the last ones."""
    opened = []

    def play(terminal: Painted, lines: list[Line]) -> Live:
        clock = Clock()
        live = Live(terminal.console, clock)
        opened.append(live)
        for n, line in enumerate(lines):
            clock.seconds += PAUSE if n >= len(lines) - PAINTED else 0.0
            live(line, "")
        return live

    yield play
    for live in reversed(opened):
        live.close()
    assert signal.getsignal(signal.SIGWINCH) == signal.SIG_DFL


class TestLive:
    def test_a_resumed_process_has_what_was_before(self) -> None:
        """Its first screen has the epochs, alarms and gates of the process before."""
        run = half(*FOUR)
        run.alarm("type")
        before = list(run.lines)
        gate = run.gate(passed=True) | {"seq": 0}
        terminal = Painted()
        live = Live(terminal.console)
        live.earlier_events = lambda step: [
            *(e for e in before if e["event"] in ("epoch", "alarm")),
            gate,
        ]
        live(run.resume(100)[0], "")
        text = "\n".join(terminal.visible)
        live.close()
        assert "100/200 steps" in text
        assert "█▆▅▃▁" in row(terminal.visible, "type")
        assert row(terminal.visible, "type").startswith("! type")
        assert "gates: 1 passed" in text

    def test_repaints_in_place(self, play: Play) -> None:
        """There is one screen, however often it was painted, and nothing above it."""
        terminal = Painted()
        play(terminal, half(*FOUR).lines)
        assert terminal.visible[0].startswith("jade run r1")
        assert terminal.everything.count("jade run r1") == 1
        assert len(terminal.visible) == 8
        assert b"\x1b[?1049h" not in terminal.raw

    def test_never_hides_the_cursor(self, play: Play) -> None:
        """However the process ends, the terminal works."""
        terminal = Painted()
        live = play(terminal, half(*FOUR).lines)
        live.close()
        assert b"\x1b[?25l" not in terminal.raw

    def test_ends_with_screen_summary_and_verdict(self, play: Play) -> None:
        """The last state stays, whole, even on a low terminal; below it are the tables."""
        run = half(*MANY)
        run.finish()
        terminal = Painted(80, 24)
        play(terminal, run.lines)
        text = terminal.everything
        whole, _, _ = text.partition("after epoch 5")
        assert [whole.count(f"\n{task} ") for task in MANY] == [1] * len(MANY)
        order = ("jade run r1", "\ntask_31 ", "after epoch 5", "\ngates", "gates_failed · exit 6")
        places = [text.index(part) for part in order]
        assert places == sorted(places)

    def test_what_others_print_is_above(self, play: Play) -> None:
        """Lines keep their order, and are never inside the screen."""
        terminal = Painted(80, 24)
        live = play(terminal, half(*FOUR).lines)
        for n in range(30):
            assert live.put_above(f"warning {n}, {'long ' * (n % 3 * 20)}")
        visible = terminal.visible
        assert visible[-8].startswith("jade run r1")
        assert visible[-9].endswith("long long")
        text = terminal.everything
        places = [text.index(f"warning {n},") for n in range(30)]
        assert places == sorted(places)
        assert text.count("jade run r1") == 1

    def test_stderr_is_above(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        """Warnings and all else that is printed to it, by whole lines; then stderr is restored."""
        terminal = Painted(80, 24)
        monkeypatch.setattr(sys, "stderr", terminal.stream)
        live = play(terminal, half(*FOUR).lines)
        print("UserWarning: a loud one", file=sys.stderr)
        print("a part, ", end="", file=sys.stderr)
        assert "a part" not in terminal.everything
        print("and its end", file=sys.stderr)
        print("a last word", end="", file=sys.stderr)
        live.close()
        print(", afterwards", file=sys.stderr)
        assert sys.stderr is terminal.stream
        text = terminal.everything
        order = (
            "UserWarning: a loud one",
            "a part, and its end",
            "jade run r1",
            "a last word, ",
        )
        places = [text.index(part) for part in order]
        assert places == sorted(places)
        assert text.count("jade run r1") == 1

    @pytest.mark.parametrize("size", [(50, 24), (160, 24), (80, 12), (30, 9), (80, 60)])
    def test_a_resized_terminal(self, play: Play, size: tuple[int, int]) -> None:
        """SIGWINCH repaints at once; one whole screen is visible, and fits.

        A narrower terminal may have broken lines: what was there moves to the scrollback.
        """
        terminal = Painted(80, 24)
        play(terminal, half(*FOUR).lines)
        terminal.resize(*size)
        os.kill(os.getpid(), signal.SIGWINCH)
        visible = terminal.visible
        assert [line.split()[0] for line in visible].count("jade") == 1
        assert visible[0].startswith("jade run r1")
        assert visible[1].startswith("epoch 6 of 10")
        assert len(visible) <= size[1]
        assert terminal.everything.count("jade run r1") == (2 if size[0] < 80 else 1)

    def test_without_colour(self, play: Play) -> None:
        """With NO_COLOR there are no colour codes; without it there are some."""
        plain, coloured = Painted(), Painted()
        plain.console.no_color = True
        run = half(*FOUR)
        run.alarm("type")
        for terminal in (plain, coloured):
            play(terminal, run.lines)
        assert not COLOUR.search(plain.raw)
        assert COLOUR.search(coloured.raw)

    def test_a_terminal_that_is_not_utf8(self, play: Play) -> None:
        """It gets only ASCII, and the same numbers."""
        terminal = Painted(encoding="latin-1")
        play(terminal, half(*FOUR).lines)
        assert terminal.raw.isascii()
        assert "107/200 steps" in "".join(terminal.visible)

    def test_goes_on_after_an_end_that_was_superseded(self, play: Play) -> None:
        """A run that failed and was started again has a screen again."""
        run = half("a", "b")
        run.finish()
        run.resume(2 * STEPS)
        run.train(1)
        terminal = Painted()
        play(terminal, run.lines)
        assert terminal.everything.count("jade run r1") == 2
        assert "41/200 steps" in terminal.visible[-5]

    def test_paints_no_more_than_its_share_of_the_time(self) -> None:
        """Four paintings a second at most; a slow one is followed by a pause in proportion."""
        terminal, clock = Painted(), Clock()

        def cost() -> None:
            clock.seconds += slowness

        def paintings(seconds: float) -> int:
            clock.seconds += seconds
            before = terminal.raw.count(b"jade run r1")
            live.tick()
            return terminal.raw.count(b"jade run r1") - before

        live, slowness = Live(terminal.console, clock), 0.0
        live.cost = cost
        for line in half(*FOUR).lines:
            live(line, "")
        assert terminal.raw.count(b"jade run r1") == 1
        assert [paintings(seconds) for seconds in (0.24, 0.02, 0.24)] == [0, 1, 0]
        slowness = 0.01
        assert paintings(0.25) == 1
        assert [paintings(seconds) for seconds in (1.9, 0.1)] == [0, 1]
        live.close()

    def test_a_terminal_that_goes_away(self, play: Play) -> None:
        """A run outlives its terminal."""
        terminal = Painted()
        run = half(*FOUR)
        live = play(terminal, run.lines[:10])
        terminal.gone = True
        for line in run.lines[10:]:
            live(line, "")
            live.paint()
        live.close()


class TestProcess:
    @pytest.mark.slow
    def test_ctrl_c_leaves_a_sane_terminal(self, tmp_path: Path) -> None:
        """After a resize and Ctrl-C: exit 75, one screen, a cursor, and how to resume the run."""
        write(tmp_path, {"train.epochs": 100_000})
        command = (*JOB, "run", "spec.json", "--run-id", "one")
        with Terminal(tmp_path, *command, size=(80, 24)) as terminal:
            terminal.until(lambda: "by epoch" in terminal.everything)
            terminal.resize(60, 20)
            # Nothing at all is visible for a moment after a resize.
            terminal.until(lambda: "".join(terminal.visible[:1]).endswith("36 samples"))
            terminal.type(b"\x03")
            assert terminal.wait() == 75
        assert terminal.shows_cursor
        visible = "\n".join(terminal.visible)
        last = "".join(visible[visible.index("run one interrupted") :].split())  # it was broken
        assert re.fullmatch(
            r"runoneinterruptedatstep\d+;togoon:python-mjobrunspec\.json--run-idone", last
        )
        assert visible.count("small run one") == 1
        assert "level, €²" in visible
        assert '{"ts"' not in terminal.everything

    def test_logs_of_a_run(self, tmp_path: Path) -> None:
        """`logs -f` displays the same screen of a stored run, and ends with the run's code."""
        from job.record.document import Document
        from job.store import open_store

        run, store = half(*FOUR), open_store(tmp_path / "runs")
        run.finish()
        run.store(store, "jade/r1")
        Document(store, "jade/r1/result.json").write({"reason": "gates_failed", "exit_code": 6})
        logs = (sys.executable, "-m", "deploy.logs", "jade/r1", "-f", "--store", "runs")
        state = str(tmp_path / "state")
        with Terminal(tmp_path, *logs, EVENGRAD_STATE=state) as terminal:
            assert terminal.wait() == 106
        assert "107/200 steps" in terminal.everything
        assert "gates_failed · exit 6" in terminal.everything
        with Terminal(tmp_path, *logs, TERM="dumb", LC_ALL="C", EVENGRAD_STATE=state) as terminal:
            assert terminal.wait() == 106
        assert b"\x1b" not in terminal.raw
        assert terminal.raw.isascii()  # though Python writes UTF-8 there
        assert "gates_failed, exit 6, 5 epochs" in terminal.everything
        assert "by task: training loss in original units" in terminal.everything

    @pytest.mark.slow
    @pytest.mark.trains
    def test_submit(self, user: Renting) -> None:
        """`submit` follows its run on the same screen, with the pod's cost and deadline."""
        names = ("RUNPOD_API_URL", "RUNPOD_API_KEY", "EVENGRAD_STORE", "EVENGRAD_STATE")
        given = {name: user.environment[name] for name in names}
        options = ("--image", user.image, "--env-file", str(user.variables), "--yes")
        submit = (sys.executable, "-m", "deploy.submit", str(user.spec), *options)
        with Terminal(user.folder, *submit, size=(120, 60), **given) as terminal:
            assert terminal.wait() == 0
        text = terminal.everything
        assert re.search(
            r"\npod \$0\.\d+/h · spent \$0\.0\d · deadline \d\d:\d\d:\d\d UTC, in 0:", text
        )
        assert text.count("\nsmall run ") == 1
        assert text.index("candidates, in order") < text.index("\nsmall run ")
        assert "succeeded · exit 0" in text
        assert terminal.shows_cursor


def test_progress_needs_no_clock_and_no_terminal() -> None:
    """The state is a function of the events: no module of the system is imported."""
    text = (ROOT / "job" / "show" / "progress.py").read_text()
    imported = re.findall(r"^(?:from|import) (\S+)", text, re.MULTILINE)
    own = [name for name in imported if name.startswith("job.")]
    assert {name for name in imported if name not in own} == {
        *("__future__", "collections", "collections.abc", "datetime"),
    }
    assert own == ["job.events.log", "job.events.superseded"]
