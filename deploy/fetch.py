"""`python -m deploy.fetch RUN`: a run's weights, verified, with its spec and its verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.command import Json, RunName, StoreUrl, out, say, serve
from deploy.ends import ERROR, INVALID, NOT_FINISHED, NOT_FOUND, OK, Stop

if TYPE_CHECKING:
    from job.head import Head, Kept

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
    """Download a run's weights, spec and result; nothing that is there already is overwritten.

    model.safetensors has the SHA-256 that its manifest names, or is not left behind.
    """
    from deploy.find import find
    from job.head import HeadDocument
    from job.store import Missing, open_store
    from job.stored import read

    found = find(run, store)
    where = open_store(found.store)
    head = HeadDocument(where, found.run, fenced=False).read()
    kept = _chosen(head, best, found.run)
    folder = to or Path(found.run_id)
    if folder.exists() and not folder.is_dir():
        raise Stop(INVALID, f"{folder} is a file; name a folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    manifest, contents = read(where, found.run, kept)
    written = []
    for file, pieces in contents.items():
        if state or file == "model.safetensors":
            written.append(_write(folder / file, pieces))
    for name in DOCUMENTS:
        try:
            written.append(_write(folder / name, [where.get(f"{found.run}/{name}").data]))
        except Missing:
            say(f"{name}: not there yet")
    told = {"run": found.run, "step": kept.step, "epoch": manifest["epoch"], "folder": str(folder)}
    if as_json:
        out({**told, "files": written})
    else:
        say(f"{found.run}: step {kept.step}, epoch {manifest['epoch']}, in {folder}: "
            f"{', '.join(written)}")  # fmt: skip


def _chosen(head: Head | None, best: bool, run: str) -> Kept:
    kept = None if head is None else head.best if best else next(iter(head.checkpoints), None)
    if kept is None:
        why = f"run {run} has no {'best ' if best else ''}checkpoint"
        if best:
            raise Stop(INVALID, f"{why}; the spec keeps one where checkpoint.best_of is set")
        raise Stop(NOT_FINISHED, why)
    return kept


def _write(path: Path, pieces: Iterable[bytes]) -> str:
    """Write a whole file or none; raises Stop where another one is there."""
    partial, digest = path.with_name(f".{path.name}.part"), hashlib.sha256()
    try:
        with partial.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        if path.exists():
            if hashlib.sha256(path.read_bytes()).digest() != digest.digest():
                raise Stop(INVALID, f"{path} exists and is another file; name a folder with -o")
        else:
            partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return path.name


if __name__ == "__main__":
    serve("fetch", fetch, OK, ERROR, INVALID, NOT_FINISHED, NOT_FOUND)
