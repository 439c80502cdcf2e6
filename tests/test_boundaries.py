"""Layers point down, importing does nothing, and what needs no tensor loads no torch."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT, environment

LAYERS = {
    "spec": "version run_id torchrun faults strict_json spec spec_types spec_faults spec_diff "
    "read_spec units",
    "events": "events gates event_schema journal figures columns glyphs end_tables screen show "
    "progress task_table frame live",
    "store": "store store_directory store_s3 s3_errors",
    "records": "document head lease snapshot records stored checkpoint heart history past rebuild "
    "claim grace heartbeat last_word",
    "numbers for others": "metrics event_file tidy export",
    "report": "report_columns report_past report_data report_words report report_stored",
    "data": "data_file cells sheet bars series arrays target data",
    "network": "ranks tasks model baseline gradients precision balance balance_torchjd device",
    "step": "step optimizer ledger evaluate position alarms",
    "train": "train",
    "uses of it": "facts run attended follow compare summary",
    "diagnosis": "edit reach effect probe finding cause_path cause_targets cause_rate cause_travel "
    "cause_loss cause_trunk cause_sigma cause_setup diagnose fixed verify diagnosis_shown",
    "container": "cancel boot launch bake conclude pod supervisor supervise",
    "command line": "__main__",
}
"""From the lowest: a module imports from its own layer and from those above it in this list."""
DEPLOY = {
    "what it needs": "ends checkout environment image key runpod_api",
    "plan": "book find plan plan_shown rehearsal",
    "pods": "ending looking life rent follow",
    "runs": "phase state states_shown",
    "frame": "command prepare",
    "commands": "submit logs status list cancel fetch reap doctor diff report __main__",
}
"""The same for `deploy`."""
READS = (
    *("version", "run_id", "faults", "strict_json", "spec", "spec_diff", "read_spec"),
    *("events", "journal", "figures", "columns", "screen", "show", "frame", "live"),
    *("store", "document", "head", "history", "lease", "stored", "report"),
)
"""What of `job` it may import: the spec, and what reads a run's records."""
MODULES = {path.stem for path in (ROOT / "job").glob("*.py")} - {"__init__"}
LAYER = {module: n for n, names in enumerate(LAYERS.values()) for module in names.split()}
CHOICES = {
    "store": {"store_directory", "store_s3"},
    "balance": {"balance_torchjd"},
}
"""Interfaces that load one of their own implementations only when it is asked for."""


def imports(module: str, top_level: bool = False) -> set[str]:
    """Modules of `job` that a module imports, inside functions too or at its top alone."""
    tree = ast.parse((ROOT / "job" / f"{module}.py").read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    return {found.split(".")[1] for node in nodes for found in names(node) if found[:4] == "job."}


def names(node: ast.AST) -> Iterator[str]:
    """Dotted names of what an import statement may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield node.module or ""
        if node.module == "job":
            yield from (f"job.{alias.name}" for alias in node.names)


def python(code: str, folder: Path) -> str:
    """What a new interpreter prints; it must not fail."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def test_every_module_has_its_layer() -> None:
    """A new module must be placed before anything imports it."""
    placed = [module for modules in LAYERS.values() for module in modules.split()]
    assert sorted(placed) == sorted(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_layers_point_down(module: str) -> None:
    """No module imports from a layer above its own, not even inside a function."""
    above = {other for other in imports(module) if LAYER[other] > LAYER[module]}
    assert above == set()


def test_no_cycles() -> None:
    """Modules can be put in an order; the two interfaces reach for an implementation late."""
    graph = {module: imports(module) - CHOICES.get(module, set()) for module in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())
    for module, implementations in CHOICES.items():
        assert imports(module) >= implementations
        assert not imports(module, top_level=True) & implementations


def test_training_knows_no_store() -> None:
    """A Training needs nothing of where its records go."""
    reached, ahead = set(), {"train"}
    while ahead:
        reached |= ahead
        ahead = {other for module in ahead for other in imports(module)} - reached
    kept = {*LAYERS["store"].split(), *LAYERS["records"].split(), "journal", "show"}
    assert reached & kept == set()


def test_the_job_never_imports_deploy_or_tests() -> None:
    """What runs in the container does not hold what runs on a laptop."""
    for module in MODULES:
        tree = ast.parse((ROOT / "job" / f"{module}.py").read_text())
        roots = {found.split(".")[0] for node in ast.walk(tree) for found in names(node)}
        assert not roots & {"deploy", "tests", "docker"}, module


def deploy_imports(module: str) -> set[str]:
    """Dotted names that a module of `deploy` imports of ours, inside functions too."""
    tree = ast.parse((ROOT / "deploy" / f"{module}.py").read_text())
    found = {name for node in ast.walk(tree) for name in names(node)}
    found |= {
        f"deploy.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "deploy"
        for alias in node.names
    }
    return {name for name in found if name.split(".")[0] in ("deploy", "job", "tests")} - {"deploy"}


def test_deploy_layers_point_down() -> None:
    """Every module of `deploy` has its layer, and imports none from a layer above."""
    placed = [module for modules in DEPLOY.values() for module in modules.split()]
    assert sorted(placed) == sorted(
        path.stem for path in (ROOT / "deploy").glob("*.py") if path.stem != "__init__"
    )
    layer = {module: n for n, names in enumerate(DEPLOY.values()) for module in names.split()}
    for module in placed:
        for name in deploy_imports(module):
            root, other = name.split(".")[:2]
            if root == "deploy":
                assert layer[other] <= layer[module], (module, name)
            else:
                assert root == "job", (module, name)
                assert other in READS, (module, name)


def test_deploy_loads_neither_torch_nor_runpod(tmp_path: Path) -> None:
    """Its commands start fast: what is heavy is loaded where it is used, if at all."""
    modules = [module for names in DEPLOY.values() for module in names.split()]
    code = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module("deploy." + module)
    for heavy in ("torch", "numpy", "pyarrow", "boto3", "safetensors", "runpod"):
        if heavy in sys.modules:
            sys.exit(f"{{module}} loads {{heavy}}")
"""
    assert python(code, tmp_path) == ""


def test_reading_loads_no_torch(tmp_path: Path) -> None:
    """Specs, events, stores and histories can be read where torch is not even installed."""
    modules = [*LAYERS["spec"].split(), *LAYERS["events"].split(), "store", "history"]
    modules += ["heartbeat", "last_word", "supervisor", "metrics", "export"]
    code = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module("job." + module)
    for heavy in ("torch", "numpy", "pyarrow", "boto3", "safetensors"):
        if heavy in sys.modules:
            sys.exit(f"{{module}} loads {{heavy}}")
"""
    assert python(code, tmp_path) == ""


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No output, no file, no thread; no handler, setting or variable is changed."""
    deployed = [module for modules in DEPLOY.values() for module in modules.split()]
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
for module in {[f"job.{m}" for m in sorted(MODULES)] + [f"deploy.{m}" for m in deployed]}:
    importlib.import_module(module)
for one, other in zip(before, world(), strict=True):
    assert one == other, (one, other)
"""
    assert python(code, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []
