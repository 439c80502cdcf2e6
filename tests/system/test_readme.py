"""README, docs/, the schema file, the specs and the Makefile agree with the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import typer
from pydantic import TypeAdapter

from deploy.exits import code_of_reason
from job.cli.app import app
from job.diagnose.case import Mechanism
from job.events import EVENT, Event, Reason
from job.spec import Balance, Gate, Resources
from job.spec.read import schema
from tests.support.command import environment, warm_job
from tests.support.readme import DOCS, PARTS, ROOT, deploy_exit_codes, renewed
from tests.support.warm_process import Nursery

PAGES = ["README.md", "EXPERIMENTS.md", *(str(p.relative_to(ROOT)) for p in DOCS.rglob("*.md"))]

SCHEMA = ROOT / "docker" / "spec.schema.json"
SPECS = [ROOT / "spec.json", *sorted((ROOT / "docker").glob("*.json"))]
SPECS += sorted((DOCS / "examples").glob("*.json"))
SPECS.remove(SCHEMA)


def read(page: str) -> str:
    """The text of a page, by its path from the repository's top."""
    return (ROOT / page).read_text("utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The page's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)


def kinds(union: Any, key: str) -> list[str]:
    """The discriminators of an annotated union of records."""
    return [part.model_fields[key].annotation.__args__[0] for part in get_args(get_args(union)[0])]


@pytest.mark.parametrize("page", PARTS)
def test_generated_parts_are_current(page: str) -> None:
    """What a page of docs/ takes from the code is what `make schema` would write."""
    assert renewed(page) == read(f"docs/{page}"), "run `make schema`"


def test_readme_is_short() -> None:
    """README takes five minutes: it has 250 lines at most."""
    assert len(read("README.md").splitlines()) <= 250


def test_schema_file_is_current() -> None:
    """docker/spec.schema.json is what `python -m job schema` prints."""
    assert json.loads(SCHEMA.read_text("utf-8")) == schema(), "run `make schema`"


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_specs_name_the_schema(path: Path) -> None:
    """The `$schema` of every shipped spec leads, from the spec's folder, to the schema file."""
    named = json.loads(path.read_text("utf-8"))["$schema"]
    assert (path.parent / named).samefile(SCHEMA)


def test_every_kind_has_a_row() -> None:
    """Every balancer, event and cause is described on its page."""
    assert missing("docs/balancing.md", [f"`{kind}`" for kind in kinds(Balance, "kind")]) == []
    assert missing("docs/events.md", [f"| `{kind}` |" for kind in kinds(Event, "event")]) == []
    causes = [f"| {cause.replace('_', ' ')} |" for cause in get_args(Mechanism)]
    assert missing("docs/diagnosis.md", causes) == []


def test_every_section_has_a_table() -> None:
    """Every section that a spec may hold stands in the page on the spec."""
    sections = [" ".join(each["description"].split()) for each in schema()["$defs"].values()]
    assert missing("docs/spec.md", sections) == []


def test_every_reason_has_a_row() -> None:
    """Every reason why a run ends is explained, with the exit code that `deploy` gives it."""
    row = re.compile(r"^\| `(\w+)` \| .* \| \d \| (\d+) \|$", re.MULTILINE)
    shown = {reason: int(code) for reason, code in row.findall(read("docs/exit-codes.md"))}
    assert shown == {reason: code_of_reason(reason) for reason in get_args(Reason)}


def missing(page: str, texts: list[str]) -> list[str]:
    """Those of the texts that the page lacks."""
    text = read(page)
    return [each for each in texts if each not in text]


def test_every_option_is_described() -> None:
    """Every option of `run`, `diagnose` and `search` is on the command's page."""
    commands = vars(typer.main.get_command(app))["commands"]
    pages = {
        "run": "docs/running.md",
        "diagnose": "docs/diagnosis.md",
        "search": "docs/searching.md",
    }
    for name, page in pages.items():
        options = [option for each in commands[name].params for option in each.opts]
        asked = [option for option in options if option.startswith("--") and option != "--help"]
        assert asked
        assert missing(page, asked) == []


def test_every_command_of_deploy_has_a_row() -> None:
    """Every command of `deploy` is in the table of the page on RunPod."""
    rows = re.findall(r"^\| `(\w+)", read("docs/runpod.md"), re.MULTILINE)
    assert sorted(rows) == sorted(deploy_exit_codes())


def test_examples_are_real_events() -> None:
    """The lines shown in the page on events are events of this version."""
    lines = [json.loads(line) for line in read("docs/events.md").splitlines() if line[:1] == "{"]
    assert {line["event"] for line in lines} == {"step", "epoch"}
    for line in lines:
        for envelope in ("ts", "schema", "run_id", "seq"):
            del line[envelope]
        EVENT.validate_python(line, strict=True)


def test_dependencies_are_explained() -> None:
    """Every package that pyproject.toml asks for has a row that says what it is for."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(each for extra in extras.values() for each in extra)]
    names = [re.split(r"[\[>=]", requirement)[0] for requirement in asked]
    table = read("docs/dependencies.md")
    assert [name for name in names if not re.search(rf"^\| .*\b{name}\b.* \|", table, re.M)] == []


def test_examples_import_what_is_installed() -> None:
    """What `python -c` imports in an example is a dependency of ours."""
    asked = [name for page in PAGES for name in re.findall(r"python -c 'import (\w+)", read(page))]
    assert asked
    assert missing("docs/dependencies.md", [f"| {name} |" for name in asked]) == []


# --- links and names ---------------------------------------------------------------------------


def without_blocks(page: str) -> str:
    """The page's text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to the page's headings."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{slug}-{count}" if (count := found.count(slug)) else slug)
    return set(found)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every link of a page to a file of ours leads to a file, and to a heading that is in it."""
    text = re.sub(r"`[^`\n]*`", "", without_blocks(page))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), link


def test_every_page_is_in_both_tables() -> None:
    """README and the index of docs/ link to every page of docs/."""
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\(docs/([\w-]+\.md)\)", read("README.md")))
    assert pages <= set(re.findall(r"\(([\w-]+\.md)\b", read("docs/README.md")))


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    """Every file or folder of ours that a page names in code marks is there."""
    named = re.findall(r"`((?:job|deploy|docker|docs|tests)/[\w./-]*)`", read(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_named_modules_exist(page: str) -> None:
    """Every `python -m` of ours that a page shows can be started."""
    named = re.findall(r"python -m ((?:job|deploy|tests)[\w.]*\w)", read(page))
    paths = {name: ROOT / name.replace(".", "/") for name in named}
    absent = [n for n, p in paths.items() if not (p.is_dir() or p.with_suffix(".py").is_file())]
    assert absent == []


def test_wings_are_the_folders_of_the_job() -> None:
    """The table of wings in README names the folders of job/, each once."""
    table = read("README.md").partition("## The wings")[2].partition("\n\n`deploy/`")[0]
    rows = [row for row in table.splitlines() if row.startswith("|")]
    named = [name for row in rows for name in re.findall(r"`(\w+)/`", row.split("|")[1])]
    folders = [path.parent.name for path in (ROOT / "job").glob("*/__init__.py")]
    assert sorted(named) == sorted(folders)


# --- examples ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machines(warm: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data and the spec of README's example, trained as run `first`."""
    folder = tmp_path_factory.mktemp("machines")
    python(folder, blocks("README.md", "python")[0])
    (folder / "machines.json").write_text(blocks("README.md", "json")[0], "utf-8")
    ended = warm_job(warm, folder, "run", "machines.json", "--run-id", "first", "--pretty")
    assert ended.returncode == 6, ended.stderr
    assert re.search(
        r"wear skill > 50% by epoch 10 \(validation\) +│ +\S+ ± \S+ │ failed", ended.stdout
    )
    return folder


def python(folder: Path, script: str) -> str:
    """Run a script as a user does; returns what it printed."""
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_readmes_example_is_diagnosed_and_mended(machines: Path, nursery: Nursery) -> None:
    """README's example fails its gate for the cause that README shows, and passes as edited."""
    shown = next(block for block in blocks("README.md", "text") if "travel budget" in block)
    found = warm_job(nursery, machines, "diagnose", "machines.json", "--fix", "fixed.json")
    assert found.returncode == 7, found.stderr
    edits = re.findall(r"\{.*\}", shown)
    assert edits
    assert [edit for edit in edits if edit not in found.stdout] == []
    ended = warm_job(nursery, machines, "run", "fixed.json", "--run-id", "second", "--pretty")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_a_run_predicts(machines: Path) -> None:
    """The lines that predict with a run give one prediction per task and sample."""
    (script,) = blocks("docs/predicting.md", "python")
    script = script.replace("RUN_ID", "first")
    data = "import numpy\nfeatures = numpy.load('machines.npz')['features']\n"
    printed = python(
        machines, f"{data}{script}\nprint([list(each.values.shape) for each in found.values()])"
    )
    assert printed.endswith("[[400, 2], [400, 24, 1]]\n")


def test_the_page_on_data_has_a_valid_example(tmp_path: Path, nursery: Nursery) -> None:
    """The data and the spec of the page on data fit each other."""
    python(tmp_path, blocks("docs/data.md", "python")[0])
    (tmp_path / "mine.json").write_text(blocks("docs/data.md", "json")[0], "utf-8")
    ended = warm_job(nursery, tmp_path, "validate", "mine.json")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_the_inputs_of_the_page_on_data_train(tmp_path: Path, nursery: Nursery) -> None:
    """The arrays and the spec with several inputs that docs/data.md shows fit: the job trains."""
    python(tmp_path, blocks("docs/data.md", "python")[1])
    spec = next(block for block in blocks("docs/data.md", "json") if '"posts"' in block)
    (tmp_path / "posts.json").write_text(spec, "utf-8")
    done = warm_job(nursery, tmp_path, "run", "posts.json", "--json")
    assert done.returncode == 0, done.stderr
    begun = json.loads(done.stdout.splitlines()[0])
    assert begun["inputs"] == {"words": [12, 1], "hour": [1, 1], "place": [1, 1]}
    assert begun["levels"]["place"] == ["Oslo", "Rome"]


def test_the_shards_of_the_page_on_data_fit(tmp_path: Path, nursery: Nursery) -> None:
    """The shards that the page on data writes are what its section of a spec reads."""
    python(tmp_path, next(b for b in blocks("docs/data.md", "python") if "shards" in b))
    mine = json.loads(blocks("docs/data.md", "json")[0])
    mine["data"] = json.loads(next(b for b in blocks("docs/data.md", "json") if "shards" in b))
    del mine["data"]["test"]  # in a bucket
    mine["tasks"] = mine["tasks"][1:]
    (tmp_path / "mine.json").write_text(json.dumps(mine), "utf-8")
    ended = warm_job(nursery, tmp_path, "validate", "mine.json")
    assert ended.returncode == 0, ended.stderr
    assert "1800 training, 200 validation samples" in ended.stdout


def test_the_images_of_the_page_on_data_fit(tmp_path: Path, nursery: Nursery) -> None:
    """Arrays as the page on data makes them of image files are what its spec reads."""
    made = next(b for b in blocks("docs/data.md", "text") if "PIL" in b)
    assert 'np.savez("photos.npz", photo=photo, kind=[' in made
    rng = np.random.default_rng(0)
    photo = rng.integers(256, size=(40, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "photos.npz", photo=photo, kind=["cat", "dog"] * 20)
    spec = next(b for b in blocks("docs/data.md", "json") if '"photos"' in b)
    (tmp_path / "photos.json").write_text(spec, "utf-8")
    ended = warm_job(nursery, tmp_path, "validate", "photos.json")
    assert ended.returncode == 0, ended.stderr
    assert "32 training, 8 validation samples" in ended.stdout


def test_the_recordings_of_the_page_on_data_fit(tmp_path: Path, nursery: Nursery) -> None:
    """The windows that the page on data cuts are what its section of a spec reads."""
    python(tmp_path, next(b for b in blocks("docs/data.md", "python") if "sliding" in b))
    mine = json.loads(blocks("docs/data.md", "json")[0])
    shown = next(b for b in blocks("docs/data.md", "json") if "windows.npz" in b)
    mine["data"] = json.loads(shown)
    mine["tasks"] = [mine["tasks"][1] | {"name": "later", "level": "window"}]
    (tmp_path / "mine.json").write_text(json.dumps(mine), "utf-8")
    ended = warm_job(nursery, tmp_path, "validate", "mine.json")
    assert ended.returncode == 0, ended.stderr
    assert "152 training, 38 validation samples" in ended.stdout


def test_the_table_of_the_page_on_data_trains(tmp_path: Path, nursery: Nursery) -> None:
    """The table and the spec that docs/data.md shows fit: the job trains, and its levels are those
    that the page tells."""
    (tmp_path / "people.csv").write_text(blocks("docs/data.md", "csv")[0], "utf-8")
    (tmp_path / "people.json").write_text(blocks("docs/data.md", "json")[1], "utf-8")
    done = warm_job(nursery, tmp_path, "run", "people.json", "--json")
    assert done.returncode == 0, done.stderr
    begun = json.loads(done.stdout.splitlines()[0])
    assert begun["levels"]["city"] == ["Bern", "Oslo", "Rome"]
    assert begun["tasks"]["risk"]["classes"] == ["high", "low", "mid"]


def test_shown_gates_are_gates() -> None:
    """The gates that the page on the verdict shows are gates of a spec."""
    shown = next(b for b in blocks("docs/verdict.md", "json") if b.startswith('"gates"'))
    gates = json.loads(f"{{{shown}}}")["gates"]
    read_as = TypeAdapter(list[Gate]).validate_json(json.dumps(gates), strict=True)
    assert len({type(gate) for gate in read_as}) == len(get_args(get_args(Gate)[0]))


def test_shown_resources_are_resources() -> None:
    """What the page on RunPod shows to be rented is a section of a spec."""
    blocks_shown = re.findall(r"^ +```json\n(.*?)^ +```$", read("docs/runpod.md"), re.S | re.M)
    shown = next(b for b in blocks_shown if '"resources"' in b)
    Resources.model_validate_json(json.dumps(json.loads(f"{{{shown}}}")["resources"]))


# --- what else must agree ----------------------------------------------------------------------


def test_wings_are_in_the_order_of_their_imports() -> None:
    """Each stands behind the wings that it imports from, and none is missing."""
    text = (ROOT / "README.md").read_text()
    rows = text.partition("| wing | holds |")[2].partition("\n\n")[0].splitlines()[2:]
    wings = [wing for row in rows for wing in re.findall(r"`(\w+)/`", row.split("|")[1])]
    assert set(wings) == {file.parent.name for file in (ROOT / "job").glob("*/__init__.py")}
    for k, wing in enumerate(wings):
        for file in (ROOT / "job" / wing).rglob("*.py"):
            imported = re.findall(r"^\s*from job\.(\w+)", file.read_text(), re.M)
            assert not {*imported} & {*wings[k + 1 :]}, file
