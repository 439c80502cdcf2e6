"""Rooms stay small, importing does nothing, and what needs no tensor loads no torch.

Who may import whom is in pyproject.toml, checked by `lint-imports`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT, environment

MOST_BESIDE, MOST_INSIDE = 8, 14
"""Modules directly in job/, and in one package below it."""
HEAVY = ("torch", "numpy", "pyarrow", "boto3", "safetensors", "runpod")
NO_TENSORS = (
    *("job.spec", "job.events", "job.show", "job.store.base", "job.store.open"),
    *("job.store.directory", "job.record", "job.report", "job.export", "job.supervise"),
    *("job.checkpoint.reader", "job.run.liveness", "job.run.exit_relay", "job.run.signals"),
    *("job.env", "job.errors", "job.exit_codes"),
)
"""What can be loaded where torch is not even installed."""


def modules(*names: str) -> list[str]:
    """Dotted names of these modules and of all below them, commands (`__main__`) left out."""
    paths = {path for name in names for path in python_files(ROOT / name.replace(".", "/"))}
    dotted = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return sorted(
        name.removesuffix(".__init__") for name in dotted if not name.endswith("__main__")
    )


def python_files(place: Path) -> list[Path]:
    return list(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def python(code: str, folder: Path) -> str:
    """What a new interpreter prints; it must not fail."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def loads_nothing_heavy(names: list[str], folder: Path) -> None:
    code = f"""
import importlib, sys
for module in {names}:
    importlib.import_module(module)
    for heavy in {HEAVY}:
        if heavy in sys.modules:
            sys.exit(f"{{module}} loads {{heavy}}")
"""
    assert python(code, folder) == ""


PACKAGES = sorted(path.parent for path in (ROOT / "job").rglob("__init__.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_package_is_crowded(package: Path) -> None:
    """A reader sees at one look what a package holds."""
    held = [path for path in package.glob("*.py") if path.name != "__init__.py"]
    assert len(held) <= (MOST_BESIDE if package.name == "job" else MOST_INSIDE)


def test_deploy_loads_neither_torch_nor_runpod(tmp_path: Path) -> None:
    """Its commands start fast: a heavy package is loaded where it is used, if at all."""
    loads_nothing_heavy(modules("deploy"), tmp_path)


def test_the_frame_of_commands_is_light(tmp_path: Path) -> None:
    """What every command of deploy loads before its arguments are known to be right."""
    slow = ("pydantic", "rich", "httpx", "structlog")
    code = f"import sys, deploy.app; print([name for name in {slow} if name in sys.modules])"
    assert python(code, tmp_path) == "[]\n"


def test_reading_loads_no_torch(tmp_path: Path) -> None:
    """Specs, events, stores and histories can be read where torch is not even installed."""
    names = [name for name in modules(*NO_TENSORS) if name != "job.export.table"]
    loads_nothing_heavy(names, tmp_path)


def test_training_loads_no_compiler(tmp_path: Path) -> None:
    """A run starts seconds sooner without PyTorch's compiler and its algebra, which it never uses:
    a search for the best constant, training, an audit, a saved state and a resume load neither."""
    code = """
import sys
from pathlib import Path
from tests.support.tiny_job import SMALL, Trained, job, write

write(Path())
loss = {"kind": "cross_entropy", "focal": 2.0}
focal = SMALL["tasks"][0] | {"name": "searched", "target": "kind", "loss": loss}
edits = {"train.clip": 1.0, "tasks": [*SMALL["tasks"], focal]}
first, second = (Trained(*job(Path(), edits)) for _ in range(2))
assert not first.run(stop_at=6)
first.saved[-1].into(second.training)
second.run()
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""
    assert python(code, tmp_path) == "[]\n"


@pytest.mark.slow
def test_importing_does_nothing(tmp_path: Path) -> None:
    """No output, no file, no thread; no handler, setting or variable is changed."""
    code = f"""
import importlib, logging, os, random, signal, threading, warnings
import boto3, dotenv, httpx, numpy, pyarrow.parquet, rich.progress, safetensors.torch, structlog
import tenacity, torch, typer

def world():
    return (
        dict(os.environ), os.getcwd(), os.listdir(), threading.active_count(),
        [signal.getsignal(s) for s in signal.valid_signals()], list(warnings.filters),
        logging.root.level, list(logging.root.handlers), structlog.is_configured(),
        torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic, torch.get_default_dtype(), torch.initial_seed(),
        torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(), random.getstate(),
    )

before = world()
for module in {modules("job", "deploy")}:
    importlib.import_module(module)
for one, other in zip(before, world(), strict=True):
    assert one == other, (one, other)
"""
    assert python(code, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []
