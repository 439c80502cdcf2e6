"""The live screen: what a person sees of a run, on any terminal, and what is left of it."""

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

from job.frame import Beside, Rent, frame
from job.glyphs import ASCII, UNICODE, Room, bar, curve
from job.journal import Line
from job.live import Live
from job.progress import POINTS, Progress
from tests.command import JOB, ROOT
from tests.recorded import EPOCHS, STEPS, Recorded
from tests.renting import IMAGE, Renting
from tests.small import write
from tests.terminal import Painted, Terminal

FOUR = ("type", "pointers", "binary", "countdown")
MANY = tuple(f"task_{k}" for k in range(32))
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RENT = Rent(0.25, 0.0123, NOW + timedelta(minutes=57))
COLOUR = re.compile(rb"\x1b\[(\d+;)*(3[0-8]|4[0-8]|9[0-7]|10[0-7])(;\d+)*m")

Play = Callable[[Painted, list[Line]], Live]
PAINTED = 10
"""Events at which a played run is painted, the last ones."""


def folded(lines: list[Line]) -> Progress:
    progress = Progress()
    for line in lines:
        progress.take(line)
    return progress


def half(*tasks: str, **values: float) -> Recorded:
    """A run in the middle of its epoch 6."""
    run = Recorded(*tasks)
    run.begin()
    run.train(STEPS * 5 + 7, **values)
    return run


def shown(
    run: Recorded, width: int = 79, height: int | None = 24, unicode: bool = True, **beside: object
) -> list[str]:
    """The lines of a screen."""
    aside = Beside(NOW, **beside)  # type: ignore[arg-type]  # the tests' own
    return [line.plain for line in frame(folded(run.lines), Room(width, height, unicode), aside)]


def row(lines: list[str], task: str) -> str:
    (found,) = [line for line in lines if re.match(rf"(! )?{task}\b", line)]
    return found


class TestFrame:
    def test_tells_how_far_the_run_is(self) -> None:
        """Epoch, steps of all steps, and the time left at the pace so far."""
        lines = shown(half(*FOUR))
        assert lines[0].startswith("jade run r1 · cpu (x86_64), 2 threads · 168 samples")
        assert lines[1].startswith("epoch 6 of 10 ━")
        assert "─ 107/200 steps · 0:01:" in lines[1]  # an event a second, 93 steps, 4 epochs

    def test_has_a_row_for_each_task(self) -> None:
        """Loss in original units, its course, drop, skill, share as number and bar, weight."""
        line = row(shown(half(*FOUR)), "countdown")
        name, loss, course, drop, skill, share, drawn, weight = line.split()
        assert (name, loss, drop, skill, share, weight) == (
            *("countdown", "0.75", "12.3%", "-45.6%", "40%", "2.5"),
        )
        assert course == "█▆▅▃▁"
        assert set(drawn) <= set(UNICODE.parts)

    def test_share_and_weight_are_the_newest_steps(self) -> None:
        """Right after an epoch, too, whose own are means."""
        run = Recorded(*FOUR)
        run.begin()
        run.train(2 * STEPS)
        run.lines[-1]["tasks"]["countdown"] |= {"weight": 99.0, "grad_share": 0.01}
        assert run.lines[-1]["event"] == "epoch"
        _, _, _, _, _, share, _, weight = row(shown(run), "countdown").split()
        assert (share, weight) == ("40%", "2.5")

    def test_a_loss_has_its_own_unit(self) -> None:
        """Not its target's; in characters that the terminal has."""
        run = half("a", "b")
        run.lines[0]["tasks"]["b"] |= {"unit": "bars", "loss_unit": "bars²"}
        assert row(shown(run), "b").startswith("b, bars² ")
        assert row(shown(run, unicode=False), "b").startswith("b, bars^2 ")

    def test_counts_have_their_plurals(self) -> None:
        """One thread, one step; thousands with a comma."""
        run = Recorded("a")
        run.begin()
        run.lines[0] |= {"threads": 1, "steps": 1260}
        run.train(1)
        run.save()
        run.train(1)
        lines = shown(run)
        assert "1 thread ·" in lines[0]
        assert "2/1,260 steps" in lines[1]
        assert "checkpoint at step 1, 1 step ago" in "".join(lines)

    @pytest.mark.parametrize("width", [20, 30, 45])
    def test_a_narrow_terminal_cuts_no_number(self, width: int) -> None:
        """Facts are broken at their words, long percentages get the room that they need."""
        run = half(*FOUR, skill=-1234.567)
        run.save()
        text = "\n".join(shown(run, width))
        assert "…" not in "".join(line for line in shown(run, width)[1:])
        assert ("-123456.7%" in text) == (width == 45)
        assert "378 kB" in text
        assert re.search(r"5[34]%", text)

    def test_tells_speed_checkpoint_store_and_pod(self) -> None:
        """What an operator looks for below; what costs, where something does."""
        run = half(*FOUR)
        assert "step 12.5 ms · 1,234 samples/s · no checkpoint yet" in shown(run)
        run.save()
        run.train(3)
        run.gate(passed=True)
        lines = shown(run, width=100, store="s3://bucket/runs", rent=RENT)
        assert lines[-4:] == [
            "step 12.5 ms · 1,234 samples/s · checkpoint at step 107, 3 steps ago, 378 kB",
            "pod $0.25/h · spent $0.01 · until 12:57:00 UTC, in 0:57:00",
            "gates: 1 passed",
            "store s3://bucket/runs",
        ]
        lines = shown(run, store="s3://bucket/runs", offline=12.0)
        assert "store out of reach for 12 s, events wait here: s3://bucket/runs" in lines
        assert not any("pod" in line for line in lines)

    @pytest.mark.parametrize("unicode", [True, False])
    @pytest.mark.parametrize("height", [8, 24, 50, None])
    @pytest.mark.parametrize("width", [40, 80, 160])
    @pytest.mark.parametrize("tasks", [("a",), FOUR, MANY, ("x" * 64, "温度", "z")])
    def test_fits_any_terminal(
        self, tasks: tuple[str, ...], width: int, height: int | None, unicode: bool
    ) -> None:
        """Never wider, never higher, tasks are there; in ASCII where there is no more."""
        run = half(*tasks)
        for _ in range(5):
            run.alarm(tasks[-1])
        lines = shown(run, width, height, unicode, store="s3://bucket/runs", rent=RENT)
        told = [line for line in lines if not line.startswith("! step")]  # whole at the end
        assert max(map(cell_len, told)) <= width
        assert height is None or len(lines) <= height
        assert sum(line.startswith("! step") for line in lines) == (
            {8: 0, None: 5}.get(height, 3) if len(tasks) < 32 or height != 8 else 0
        )
        assert any(line.startswith(f"! {tasks[-1][:4]}") for line in lines)
        if not unicode and tasks[1:2] != ("温度",):
            assert "".join(lines).isascii()

    @pytest.mark.parametrize("height", range(1, 8))
    def test_a_terminal_of_a_few_lines(self, height: int) -> None:
        """How far the run is comes first, then the tasks; nothing is drawn below the edge."""
        run = half(*FOUR)
        run.alarm("type")
        lines = shown(run, 80, height, store="runs")
        assert 1 <= len(lines) <= height
        assert lines[0].startswith("jade run r1")
        assert height < 6 or row(lines, "type")

    @pytest.mark.parametrize(
        ("width", "titles"),
        [
            (40, "task loss by epoch share"),
            (60, "task loss by epoch drop skill share"),
            (80, "task loss by epoch drop skill share weight"),
        ],
    )
    def test_columns_give_way(self, width: int, titles: str) -> None:
        """The narrower the terminal, the fewer columns; the loss and the share stay."""
        assert shown(half(*FOUR), width)[2].split() == titles.split()

    def test_many_tasks_on_a_low_terminal(self) -> None:
        """Those with alarms and with the smallest shares are shown, the others counted."""
        run = half(*MANY)
        run.alarm("task_31")
        lines = shown(run)
        rows = [line.split()[0] for line in lines if line.startswith("task_")]
        assert rows == list(MANY[: len(rows)])
        assert row(lines, "task_31").startswith("! task_31")
        left = 31 - len(rows)
        smallest, largest = ((k + 1) / (16 * 33) for k in (len(rows), 30))
        assert f"and {left} more, shares {smallest:.1%} to {largest:.1%}" in lines
        assert len(lines) <= 24

    def test_alarms_are_named_at_their_task(self) -> None:
        """By a mark that needs no colour, and by kind where there is room; the newest below."""
        run = half(*FOUR)
        for kind in ("loss_saturated", "sigma_frozen", "conflict", "task_starving"):
            run.alarm("binary", kind)
        lines = shown(run, width=160)
        assert row(lines, "binary").endswith("task starving")
        below = [line for line in lines if line.startswith("! step 107, ")]
        assert [line.split()[3] for line in below] == [
            "sigma_frozen:",
            "conflict:",
            "task_starving:",
        ]
        assert "4 alarms" in lines[-1]
        assert sum("0.1%" in line for line in shown(run, height=None)) == 4

    def test_what_is_not_finite_shows(self) -> None:
        """As nan, and as a cross in the curve, not as a hole."""
        run = half("a", "b", train_loss_original=math.inf, weight=math.nan, grad_share=math.nan)
        line = row(shown(run), "b")
        assert line.split() == ["b", "nan", "xxxxx", "12.3%", "-45.6%", "nan", "nan"]

    def test_before_the_first_epoch(self) -> None:
        """The batch's loss and its course by step; what only an epoch tells is a dash."""
        run = Recorded(*FOUR)
        assert shown(run) == ["waiting for the run to begin"]
        run.begin()
        assert row(shown(run), "type").split() == ["type", *"-----"]
        run.train(3)
        lines = shown(run)
        assert lines[1].startswith("epoch 1 ")
        assert row(lines, "type").split()[1:5] == ["3.97", "█▄▁", "-", "-"]

    def test_two_epochs_of_steps_become_a_curve_by_epoch(self) -> None:
        """Once there is something to compare."""
        run = Recorded("a")
        run.begin()
        run.train(STEPS)
        assert "by step" in shown(run)[2]
        run.train(STEPS)
        assert "by epoch" in shown(run)[2]
        assert "█▁" in row(shown(run), "a")


class TestProgress:
    def test_a_resume_takes_back_what_it_supersedes(self) -> None:
        """The curve ends where the run goes on; alarms stay; the pace is this attempt's."""
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

    def test_a_resumed_process_begins_where_it_goes_on(self) -> None:
        """Its own events are all it has; the bar starts at the checkpoint, drops are the run's."""
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
        told = [e["tasks"]["a"]["train_loss_original"] for e in run.lines if e["event"] == "epoch"]
        assert (drawn[0], drawn[-1]) == (told[0], told[-1])
        gaps = [told.index(b) - told.index(a) for a, b in pairwise(drawn[:-1])]
        assert len(set(gaps)) == 1

    def test_an_event_of_a_later_version(self) -> None:
        """Says nothing, and is no error."""
        Progress().take({"event": "moon.rises"})


class TestGlyphs:
    def test_a_curve_spans_its_own_range(self) -> None:
        """From the lowest character to the highest; one that never moves lies low."""
        assert curve([0, 1, 2, 3, 4, 5, 6, 7], 8, UNICODE) == "▁▂▃▄▅▆▇█"
        assert curve([3.0, 3.0], 8, ASCII) == ".."
        assert curve([], 8, UNICODE) == ""

    def test_a_curve_hides_no_explosion(self) -> None:
        """One value that is not finite marks the character it falls on."""
        assert curve([1.0] * 50 + [math.nan] + [1.0] * 49, 10, ASCII) == ".....x...."
        assert curve([1.0, None], 10, ASCII) == ".x"

    def test_a_bar_is_as_long_as_its_share(self) -> None:
        """Nothing for nothing, something for a little, all for 1 and beyond."""
        made = [bar(share, 8, UNICODE) for share in (None, math.nan, 0.0, 1e-6, 0.5, 1.0, 1.5)]
        assert made == ["", "", "", "▏", "████", "████████", "████████"]


@pytest.fixture
def play() -> Iterator[Play]:
    """Shows events as if there were time to paint at each of the last ones."""
    opened = []

    def play(terminal: Painted, lines: list[Line]) -> Live:
        live = Live(terminal.console)
        opened.append(live)
        for n, line in enumerate(lines):
            live._due = 0.0 if n >= len(lines) - PAINTED else math.inf
            live(line, "")
        return live

    yield play
    for live in reversed(opened):
        live.close()
    assert signal.getsignal(signal.SIGWINCH) == signal.SIG_DFL


class TestLive:
    def test_a_resumed_process_shows_what_was_before(self, play: Play) -> None:
        """On its first screen: epochs, alarms and gates of the process before."""
        run = half(*FOUR)
        run.alarm("type")
        told = list(run.lines)
        gate = run.gate(passed=True) | {"seq": 0}
        terminal = Painted()
        live = Live(terminal.console)
        live.past = lambda step: [*(e for e in told if e["event"] in ("epoch", "alarm")), gate]
        live(run.resume(100)[0], "")
        text = "\n".join(terminal.visible)
        live.close()
        assert "100/200 steps" in text
        assert "█▆▅▃▁" in row(terminal.visible, "type")
        assert row(terminal.visible, "type").startswith("! type")
        assert "gates: 1 passed" in text

    def test_repaints_in_place(self, play: Play) -> None:
        """One screen stands there, however often it was painted, and nothing above it."""
        terminal = Painted()
        play(terminal, half(*FOUR).lines)
        assert terminal.visible[0].startswith("jade run r1")
        assert terminal.everything.count("jade run r1") == 1
        assert len(terminal.visible) == 8
        assert b"\x1b[?1049h" not in terminal.raw

    def test_never_hides_the_cursor(self, play: Play) -> None:
        """However the process ends, the terminal is sane."""
        terminal = Painted()
        live = play(terminal, half(*FOUR).lines)
        live.close()
        assert b"\x1b[?25l" not in terminal.raw

    def test_ends_with_screen_summary_and_verdict(self, play: Play) -> None:
        """The last state stays, whole, even where the terminal is too low for it; then the text."""
        run = half(*MANY)
        run.finish()
        terminal = Painted(80, 24)
        play(terminal, run.lines)
        text = terminal.everything
        assert [text.count(f"\n{task} ") for task in MANY] == [1] * len(MANY)
        order = ("jade run r1", "\ntask_31 ", "after epoch 5", "\ngates", "gates_failed · exit 6")
        places = [text.index(part) for part in order]
        assert places == sorted(places)

    def test_what_others_print_stands_above(self, play: Play) -> None:
        """Line by line, in order, never within the screen."""
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

    def test_stderr_stands_above(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        """Warnings and whatever else is printed to it, by whole lines; afterwards it is itself."""
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
        """SIGWINCH paints anew at once; one whole screen is visible, and fits.

        Narrower, it may have broken its lines anew: what was there goes into the scrollback.
        """
        terminal = Painted(80, 24)
        live = play(terminal, half(*FOUR).lines)
        live._due = math.inf
        terminal.resize(*size)
        os.kill(os.getpid(), signal.SIGWINCH)
        visible = terminal.visible
        assert [line.split()[0] for line in visible].count("jade") == 1
        assert visible[0].startswith("jade run r1")
        assert visible[1].startswith("epoch 6 of 10")
        assert len(visible) <= size[1]
        assert terminal.everything.count("jade run r1") == (2 if size[0] < 80 else 1)

    def test_without_colour(self, play: Play) -> None:
        """NO_COLOR: no colour codes at all; without it there are some."""
        plain, coloured = Painted(), Painted()
        plain.console.no_color = True
        run = half(*FOUR)
        run.alarm("type")
        for terminal in (plain, coloured):
            play(terminal, run.lines)
        assert not COLOUR.search(plain.raw)
        assert COLOUR.search(coloured.raw)

    def test_a_terminal_that_is_not_utf8(self, play: Play) -> None:
        """ASCII alone, and the same numbers."""
        terminal = Painted(encoding="latin-1")
        play(terminal, half(*FOUR).lines)
        assert terminal.raw.isascii()
        assert "107/200 steps" in "".join(terminal.visible)

    def test_goes_on_after_an_end_that_was_taken_back(self, play: Play) -> None:
        """A run that failed, was started again, and is followed throughout has a screen again."""
        run = half("a", "b")
        run.finish()
        run.resume(2 * STEPS)
        run.train(1)
        terminal = Painted()
        play(terminal, run.lines)
        assert terminal.everything.count("jade run r1") == 2
        assert "41/200 steps" in terminal.visible[-5]

    def test_paints_no_more_than_its_share_of_the_time(self) -> None:
        """A painting that took long is followed by a pause in proportion; four a second at most."""
        terminal = Painted()
        live = Live(terminal.console)
        for line in half(*FOUR).lines:
            live(line, "")
        painted = terminal.raw.count(b"jade run r1")
        live.close()
        assert painted == 1

    def test_a_terminal_that_goes_away(self, play: Play) -> None:
        """A run outlives its terminal."""
        terminal = Painted()
        run = half(*FOUR)
        live = play(terminal, run.lines[:10])

        terminal.gone = True
        for line in run.lines[10:]:
            live._due = 0.0
            live(line, "")
        live.close()


class TestProcess:
    def test_ctrl_c_leaves_a_sane_terminal(self, tmp_path: Path) -> None:
        """Resized under way, then interrupted: 75, one screen, a cursor; the last line says how the
        run goes on."""
        write(tmp_path, {"train.epochs": 100_000})
        command = (*JOB, "run", "spec.json", "--run-id", "one")
        with Terminal(tmp_path, *command, size=(80, 24)) as terminal:
            terminal.until(lambda: "by epoch" in terminal.everything)
            terminal.resize(60, 20)
            terminal.until(lambda: terminal.visible[0].endswith("36 samples"))
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
        """`logs -f` shows the same screen of a stored run, and ends with the run's code."""
        from job.document import Document
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
        """`submit` follows its run on the same screen, with what the pod costs and its deadline."""
        names = ("RUNPOD_API_URL", "RUNPOD_API_KEY", "EVENGRAD_STORE", "EVENGRAD_STATE")
        given = {name: user.environment[name] for name in names}
        options = ("--image", IMAGE, "--env-file", str(user.variables), "--yes")
        submit = (sys.executable, "-m", "deploy.submit", str(user.spec), *options)
        with Terminal(user.folder, *submit, size=(120, 60), **given) as terminal:
            assert terminal.wait(180) == 0
        text = terminal.everything
        assert re.search(
            r"\npod \$0\.\d+/h · spent \$0\.0\d · until \d\d:\d\d:\d\d UTC, in 0:", text
        )
        assert text.count("\nsmall run ") == 1
        assert text.index("candidates, in order") < text.index("\nsmall run ")
        assert "succeeded · exit 0" in text
        assert terminal.shows_cursor


def test_progress_needs_no_clock_and_no_terminal() -> None:
    """The state is a function of the events: nothing of the system is imported."""
    text = (ROOT / "job" / "progress.py").read_text()
    imported = re.findall(r"^(?:from|import) (\S+)", text, re.MULTILINE)
    assert imported == ["__future__", "collections", "datetime", "job.journal"]
