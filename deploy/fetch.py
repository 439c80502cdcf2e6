"""`python -m deploy.fetch RUN`: a run's weights, verified, with its spec and its verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.app import run_command
from deploy.exits import INVALID, NO_ACCESS, NOT_FINISHED, NOT_FOUND, CommandError
from deploy.options import Json, RunName, StoreUrl
from deploy.output import log_line, partial_file, print_json
from job.errors import InputError

if TYPE_CHECKING:
    from job.record.run_index import Kept, RunIndex
    from job.store import Store

DOCUMENTS = ("spec.json", "result.json")


def fetch(
    run: RunName,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; default: the run id.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The best checkpoint instead of the newest.")
    ] = False,
    state: Annotated[bool, typer.Option("--state", help="The optimizer's state, too.")] = False,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Download a run's weights, spec, code and result; no existing file is overwritten.

    model.safetensors has the SHA-256 that its manifest names, or is not left behind.
    """
    from deploy.runs.locate import locate
    from job.checkpoint.reader import read
    from job.record.run_index import RunIndexStore
    from job.store import Missing, open_store

    ref = locate(run, store)
    opened = open_store(ref.store)
    index = RunIndexStore(opened, ref.run, fenced=False).read()
    kept = _checkpoint(index, best, ref.run)
    folder = to or Path(ref.run_id)
    if folder.exists() and not folder.is_dir():
        raise CommandError(INVALID, f"{folder} is a file; name a folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    manifest, contents = read(opened, ref.run, kept)
    written = []
    for file, pieces in contents.items():
        if state or file == "model.safetensors":
            written.append(_write(folder / file, pieces))
    for name in DOCUMENTS:
        try:
            written.append(_write(folder / name, [opened.get(f"{ref.run}/{name}").data]))
        except Missing:
            log_line(f"{name}: not there yet")
    for path, data in _code(opened, ref.run, folder / "spec.json"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        written.append(_write(folder / path, [data]))
    facts = {"run": ref.run, "step": kept.step, "epoch": manifest.epoch, "folder": str(folder)}
    if as_json:
        print_json({**facts, "files": written})
    else:
        log_line(f"{ref.run}: step {kept.step}, epoch {manifest.epoch}, in {folder}: "
                 f"{', '.join(written)}")  # fmt: skip


def _code(store: Store, run: str, spec: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The run's own code, if it has some, by path beside its spec; older runs keep none."""
    from job.record.layout import CODE
    from job.spec.own_code import sources
    from job.spec.stored import parse_stored
    from job.store.by_content import kept_file

    try:
        job = parse_stored(spec.read_text("utf-8", "replace"), str(spec))
    except (OSError, InputError):  # the weights are what was asked for
        log_line(f"{spec}: cannot be read here, so its own code, if it has some, is not fetched")
        return
    each = (sources(section) for section in job.own_code.values())
    for name, digest in (item for files in each for item in files.items()):
        path, data = PurePosixPath(name), kept_file(store, f"{run}/{CODE}", digest)
        if path.is_absolute() or ".." in path.parts:
            log_line(f"{path}: not fetched, as it lies outside of the spec's folder")
        elif data is not None:
            yield path, data


def _checkpoint(index: RunIndex | None, best: bool, run: str) -> Kept:
    """The newest checkpoint, or the best one; raises CommandError."""
    kept = None if index is None else index.best if best else next(iter(index.checkpoints), None)
    if kept is None:
        why = f"run {run} has no {'best ' if best else ''}checkpoint"
        if best:
            raise CommandError(INVALID, f"{why}; the spec keeps one if checkpoint.best_of is set")
        raise CommandError(NOT_FINISHED, why)
    return kept


def _write(path: Path, pieces: Iterable[bytes]) -> str:
    """Write a whole file or none; raises CommandError if another one is there."""
    digest = hashlib.sha256()
    with partial_file(path) as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        if not path.exists():
            Path(file.name).rename(path)
        elif hashlib.sha256(path.read_bytes()).digest() != digest.digest():
            why = f"{path} exists and is another file; name a folder with -o"
            raise CommandError(INVALID, why)
    return path.name


if __name__ == "__main__":
    run_command("fetch", fetch, NO_ACCESS, NOT_FINISHED, NOT_FOUND)
