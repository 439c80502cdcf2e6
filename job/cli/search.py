"""`python -m job search`."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from job.cli.arguments import Spec
from job.cli.run import handle_signals
from job.errors import Fault, InputError
from job.exit_codes import FAILED, INTERRUPTED
from job.record.layout import FORM
from job.spec.patch import applied, moved
from job.spec.read import parse_spec, read_text, with_digests

if TYPE_CHECKING:
    from job.search.result import Result
    from job.search.search import Search
    from job.search.study import Pruner, SearchStudy

LONGEST = 56
"""Characters of a study's name: a run's id adds a trial's number to it."""


SpaceFile = Annotated[
    Path, typer.Option(metavar="SPACE.json", help="Which values of the spec are searched.")
]
Trials = Annotated[
    int, typer.Option(min=1, help="Trials of the study, those of earlier calls included.")
]
Hours = Annotated[float, typer.Option(min=0, help="No trial begins after so many hours.")]
Jobs = Annotated[
    int, typer.Option(min=1, help="Trials at the same time, each a process on one thread.")
]
ObjectiveName = Annotated[
    str | None,
    typer.Option(
        help="mean or min of the tasks' validation skills, or one task. Else each task's is "
        "an objective, and the Pareto front is shown.",
    ),
]
PrunerName = Annotated[
    Literal["median", "hyperband", "none"],
    typer.Option(help="What ends hopeless trials, by epoch; only of a single objective."),
]
StudyName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the study; else SPACE's.")
]
StoreUrl = Annotated[
    str, typer.Option(help="Store of study and runs: a directory, or s3://bucket/prefix.")
]
BestFile = Annotated[
    Path | None,
    typer.Option(metavar="OUT.json", help="New file for the best spec; else beside SPEC."),
]


def search(
    spec: Spec,
    space: SpaceFile,
    trials: Trials,
    hours: Hours = math.inf,
    jobs: Jobs = 1,
    objective: ObjectiveName = None,
    pruner: PrunerName = "median",
    study: StudyName = None,
    store: StoreUrl = "runs",
    best: BestFile = None,
) -> None:
    """Search over a spec's values with Optuna's TPE; every trial is a run of the store.

    A trial's value is the validation skill after its last epoch. The same command goes on with an
    interrupted or killed search, and with more --trials adds to it. Exit code 1 if no trial trained
    to its end, or if too many failed in a row.
    """
    began = time.monotonic()
    handle_signals(_end_at_once)
    _check_optuna()
    if best is not None:
        _check_folder(best)
    found = _study(spec, space, objective, pruner, study, store)
    running = _search(found, store, jobs, trials, pruner)
    with running.board.bars:
        running.run(trials, began + 3600 * hours)
    _end(running, spec, best)


def _search(study: SearchStudy, store: str, jobs: int, trials: int, pruner: Pruner) -> Search:
    """The search, before its first trial."""
    from job.search.search import Search
    from job.search.show import Board

    board = Board(trials)
    if not study.objective.single and pruner != "none":
        board.print("several objectives: no trial is pruned; --objective makes one of them")
    return Search(study, store, jobs, board)


def _end(search: Search, spec: Path, best: Path | None) -> None:
    """Print what a search found and write the best spec; exits with a code unless it is 0."""
    from job.search.result import in_words, result_of, trials_in_words
    from job.search.show import print_lines, print_trials
    from job.store import open_store

    study, board = search.study, search.board
    again = shlex.join(["python", "-m", "job", *sys.argv[1:]])
    if search.interrupted:
        board.print(f"interrupted; to go on: {again}")
        raise typer.Exit(INTERRUPTED)
    result = result_of(study, open_store(search.store, study.base.checkpoint.encryption))
    if result is not None:
        title = "trials, the best first" if study.objective.single else "Pareto front"
        print_trials(result.ranked, study.objective, title)
    print_lines(trials_in_words(study))
    if result is not None:
        print_lines([*in_words(result), *_written(result, spec, best)])
    ended = search.reason or ("--hours are over" if search.out_of_time else None)
    if ended is not None:
        board.print(f"ended: {ended}; to go on: {again}")
    if search.reason is not None or result is None:
        raise typer.Exit(FAILED)


NOT_BEGUN = "interrupted before a trial began; the same command goes on"


def _end_at_once(*_: object) -> None:
    # No exception, as in `job run`: while torch loads numpy it swallows any.
    os.write(2, f"{NOT_BEGUN}\n".encode())
    os._exit(INTERRUPTED)


def _interrupted(*_: object) -> None:
    print(NOT_BEGUN, file=sys.stderr)
    sys.exit(INTERRUPTED)


def _study(
    spec: Path, space: Path, objective: str | None, pruner: Pruner, name: str | None, url: str
) -> SearchStudy:
    """The study, once spec, space and data have no fault; raises InputError, StoreError."""
    from job.data.dataset import load
    from job.run.start_from import only_anew
    from job.search.journal import journal_key, open_journal
    from job.search.measurable import check_measurable
    from job.search.objective import Objective
    from job.search.space import read_space
    from job.search.study import SearchStudy
    from job.store import open_store

    handle_signals(_interrupted)
    text, folder = read_text(spec), spec.resolve().parent
    base = with_digests(parse_spec(text, str(spec)), folder)
    only_anew(base)
    dimensions = read_space(space, json.loads(text), folder)
    wanted = Objective.of(objective, base)
    named = re.sub(r"[^a-z0-9]+", "-", space.stem.lower()).strip("-") if name is None else name
    if not FORM.fullmatch(named) or len(named) > LONGEST:
        rule = f"a study's name is of a-z, 0-9 and -, at most {LONGEST}"
        raise InputError([Fault(f"--study {named}", "another name", rule, "name it with --study")])
    check_measurable(base, load(base, folder, test=True), wanted)
    store = open_store(url, base.checkpoint.encryption)
    journal = open_journal(store, journal_key(base.name, named))
    return SearchStudy(journal, named, dimensions, wanted, pruner)


def _check_optuna() -> None:
    """Raises InputError without Optuna."""
    if importlib.util.find_spec("optuna") is None:
        rule, remedy = "job search needs it", "pip install 'evengrad[search]'"
        raise InputError([Fault("optuna", "no such package", rule, remedy)])


def _check_folder(out: Path) -> None:
    """Raises InputError if a new file cannot be made there."""
    if not os.access(out.resolve().parent, os.W_OK):
        found, rule = "a folder that cannot be written", "the best spec is a new file"
        raise InputError([Fault(f"--best {out}", found, rule, "name a file in another folder")])


def _written(result: Result, spec: Path, best: Path | None) -> list[str]:
    """Write the best spec and its figures, unless they are there; says where they are.

    A file of another content is never overwritten: a name with the trial's is taken then. Figures
    beside this very spec are an earlier call's, which knew of fewer trials: they are replaced.
    """
    from job.export.new_file import new_file

    space, trial = result.study.space, result.best
    out = best or spec
    named = out.with_name(f"{out.stem}.{result.study.run_id(trial.number)}.json")
    content = applied(space.raw, space.edits(trial.params))

    def texts(path: Path) -> dict[Path, str]:
        figures = json.dumps(result.figures(), indent=2, ensure_ascii=False) + "\n"
        return {path: moved(content, spec, path), figures_of(path): figures}

    def is_taken(path: Path) -> bool:
        return os.path.lexists(path) and path.read_text("utf-8") != texts(path)[path]

    path = named if best is None or is_taken(best) else best
    if path.is_file() and not is_taken(path):
        figures_of(path).unlink(missing_ok=True)
    for each, text in texts(path).items():
        if not (each.is_file() and each.read_text("utf-8") == text):
            with new_file(each) as file:
                file.write(text.encode())
    lines = [f"best spec: {path}, its figures: {figures_of(path)}"]
    if best is not None and path != best:
        lines.append(f"{best} was there already, with other content: it is as it was")
    seeds = shlex.join(["python", "-m", "job", "compare", str(spec), str(path), "--seeds", "5"])
    return [*lines, f"whether that holds for other seeds: {seeds}"]


def figures_of(path: Path) -> Path:
    """The file of figures beside a best spec."""
    return path.with_name(f"{path.stem}.figures.json")
