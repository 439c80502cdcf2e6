"""The image in a real Docker engine: what it holds, and what it does with a run.

Run by `make test-container`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from job.checkpoint.restore import restore
from job.record.history import read_document, read_history
from job.record.run_index import Kept, RunIndexStore
from job.store import Store, Unavailable, open_store
from job.store.directory import DirectoryStore
from job.version import VERSION
from tests.runpod.stub_api import HANG, Asked, stub_api, wait_for
from tests.support.command import ROOT
from tests.support.runs import SPEC
from tests.support.s3_server import free_ports
from tests.support.tiny_job import write
from tests.support.warm_process import SECONDS, until

pytestmark = pytest.mark.container
USER = 10001
SECRET = "a-secret-that-no-layer-may-hold"
KEY = "small/r"
RESOURCES = {"gpu": ["any"], "max_price_per_hour": 1, "max_hours": 1}
INDEX = ["--build-arg", "TORCH_INDEX="]


def docker(*arguments: str, code: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run docker to its end; fails unless it ends with the code."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    # Without those, which the compose file would use.
    ended = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env={**mine, "DOCKER_BUILDKIT": "1", **more},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert code is None or ended.returncode == code, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended


def build(tag: str, target: str, *arguments: str, code: int = 0, **more: str) -> str:
    """Build an image of this checkout; returns docker's output."""
    command = ("build", "--target", target, "-t", tag, *INDEX, *arguments, ".")
    ended = docker(*command, code=code, **more)
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def image() -> str:
    """The CPU image with the smoke spec, built with a secret in the builder's environment."""
    spec = (ROOT / "docker/smoke.json").read_bytes()
    digest = f"SPEC_SHA256={hashlib.sha256(spec).hexdigest()}"
    labels = ("--build-arg", digest, "--build-arg", "REVISION=abc")
    build("evengrad:test", "cpu", *labels, AWS_SECRET_ACCESS_KEY=SECRET)
    return "evengrad:test"


class Container:
    """A container of the image, its store in a folder of this machine, without privileges."""

    def __init__(self, image: str, folder: Path, spec: Path | None = None, *more: str) -> None:
        self.name = f"evengrad-test-{uuid.uuid4().hex[:8]}"
        store = folder / "store"
        store.mkdir(exist_ok=True)
        os.chown(store, USER, USER)
        own_spec = [] if spec is None else [
            "-v", f"{spec.parent}:/specs:ro", "-e", f"EVENGRAD_SPEC=/specs/{spec.name}",
            "-e", "EVENGRAD_ANY_SPEC=1",
        ]  # fmt: skip
        docker(
            "run", "-d", "--name", self.name, "--read-only", "--tmpfs", "/tmp",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true",
            "-v", f"{store}:/runs", "-e", "RUN_ID=r", "-e", f"AWS_SECRET_ACCESS_KEY={SECRET}",
            "-e", "OMP_NUM_THREADS=1", *own_spec, *more, image,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Its state in docker's words."""
        state: dict[str, Any] = json.loads(docker("inspect", self.name).stdout)[0]["State"]
        return state

    def wait(self) -> int:
        """Its exit code."""
        until(lambda: not self.state()["Running"], say=lambda: self.logs, pause=0.1)
        return int(self.state()["ExitCode"])

    @property
    def logs(self) -> str:
        ended = docker("logs", self.name)
        return ended.stdout + ended.stderr

    def until_step(self, step: int) -> None:
        until(lambda: f'"step":{step},' in self.logs, say=lambda: self.logs[-3000:], pause=0.05)

    def trainer(self) -> int:
        """The trainer's process id on this machine, once there is one."""
        found: list[int] = []

        def look() -> bool:
            for line in docker("top", self.name, "-eo", "pid,args").stdout.splitlines():
                pid, _, command = line.strip().partition(" ")
                if "-m job run" in command:
                    found.append(int(pid))
            return bool(found)

        until(look, say=lambda: self.logs, pause=0.1)
        return found[0]

    def python(self, code: str, result: int | None = 0) -> str:
        """Output of Python inside."""
        return docker("exec", self.name, "python", "-c", code, code=result).stdout


@pytest.fixture
def containers() -> Iterator[list[Container]]:
    """Containers that a test has started; they end with it."""
    started: list[Container] = []
    yield started
    for container in started:
        docker("rm", "-f", "-v", container.name, code=None)


def weights(folder: Path) -> bytes:
    """The model that a run ended with."""
    store = DirectoryStore(folder / "store")
    result = read_document(store, KEY, "result.json")
    assert result is not None
    return store.get(f"{KEY}/{result['checkpoint']}/model.safetensors").data


# --- the image ------------------------------------------------------------------------------------


def test_an_invalid_spec_fails_the_build(tmp_path: Path) -> None:
    """In the validator's words; and so does a spec that is not there, or not what was announced."""
    name = f"broken-{uuid.uuid4().hex}.json"
    broken = json.loads((ROOT / "docker/smoke.json").read_text())
    broken["train"]["batch_sise"] = 8
    (ROOT / name).write_text(json.dumps(broken))
    try:
        output = build("evengrad:broken", "cpu", "--build-arg", f"SPEC={name}", code=1)
    finally:
        (ROOT / name).unlink()
    assert "$.train.batch_sise: found 8; there is no such key; did you mean `batch_size`?" in output
    output = build("evengrad:broken", "cpu", "--build-arg", "SPEC=nowhere.json", code=1)
    assert "is not in the build context" in output
    output = build("evengrad:broken", "cpu", "--build-arg", f"SPEC_SHA256={'0' * 64}", code=1)
    assert "its label would lie" in output


def test_the_cuda_target() -> None:
    """All its stages, with the CPU's torch in place of the one that brings CUDA; a label that
    claims CUDA all the same fails the build."""
    arguments = ("--build-arg", "TORCH_CUDA=torch==2.13.0", "--build-arg")
    build("evengrad:cuda-test", "cuda", *arguments, "CUDA_VERSION=none")
    built = docker("run", "--rm", "--entrypoint", "cat", "evengrad:cuda-test", "/job/build.json")
    assert json.loads(built.stdout)["torch"].startswith("2.13.0")
    output = build("evengrad:cuda-test", "cuda", *arguments, "CUDA_VERSION=13.0", code=1)
    assert "CUDA_VERSION: found 13.0; the image's is none" in output


def test_the_image_describes_itself(image: str) -> None:
    """Labels and /job/build.json agree; the job's user is not root; PID 1 is the supervisor."""
    config = json.loads(docker("inspect", image).stdout)[0]["Config"]
    digest = hashlib.sha256((ROOT / "docker/smoke.json").read_bytes()).hexdigest()
    assert config["Labels"]["evengrad.spec.sha256"] == digest
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert config["Labels"]["evengrad.cuda"] == "none"
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION
    assert config["User"] == "job"
    assert config["Entrypoint"] == ["python", "-m", "job.supervise"]
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "job.run.liveness"]
    output = docker("run", "--rm", "--entrypoint", "cat", image, "/job/build.json").stdout
    built = json.loads(output)
    assert (built["spec_sha256"], built["revision"], built["cuda"]) == (digest, "abc", None)
    assert config["Labels"]["evengrad.torch"] == built["torch"].partition("+")[0]


def test_what_the_image_holds(image: str) -> None:
    """The code, the spec, its data; no tests, no compiler, no package cache, and no secret in any
    layer, label or variable."""
    listed = docker("run", "--rm", "--entrypoint", "find", image, "/app", "/job", "-type", "f")
    files = listed.stdout.split()
    held = (path for path in (ROOT / "job").rglob("*") if path.is_file())
    code = [path for path in held if "__pycache__" not in path.parts]
    expected = {f"/app/{path.relative_to(ROOT)}" for path in code}
    assert set(files) == expected | {"/job/spec.json", "/job/build.json", "/job/nasdaq.csv.gz"}
    looked = "! command -v gcc cc g++ c++ clang && test ! -e /root/.cache && test ! -e ~/.cache"
    docker("run", "--rm", "--user", "root", "--entrypoint", "sh", image, "-c", looked)
    history = docker("history", "--no-trunc", image).stdout
    assert SECRET not in history + docker("inspect", image).stdout
    sizes = docker("history", "--format", "{{.Size}}|{{.CreatedBy}}", image).stdout.splitlines()
    (spec,) = [line for line in sizes if "COPY /baked/spec" in line]
    assert spec.partition("|")[0].endswith(("kB", "B"))
    assert float(spec.partition("kB|")[0].partition("B|")[0]) <= 100


@pytest.fixture
def own() -> Iterator[Path]:
    """A job in the build context whose network needs a package that the image lacks."""
    folder = ROOT / "docker" / f"own-{uuid.uuid4().hex}"
    folder.mkdir()
    for name in ("mmoe.json", "mmoe.py", "census.parquet"):
        shutil.copy(ROOT / "docs/examples" / name, folder)
    code = (folder / "mmoe.py").read_text()
    assert "(shares.unsqueeze(2) * z).sum(dim=1)" in code
    code = code.replace(
        "(shares.unsqueeze(2) * z).sum(dim=1)", 'einsum(shares, z, "b e, b e w -> b w")'
    )
    (folder / "mmoe.py").write_text(
        code.replace("import math", "import math\nfrom einops import einsum")
    )
    (folder / "requirements.txt").write_text("einops==0.8.1\n")
    yield folder
    shutil.rmtree(folder)


def test_packages_of_ones_own(own: Path, tmp_path: Path, containers: list[Container]) -> None:
    """They are a layer that stays when the code changes; the job trains with them. A package that
    contradicts the image's fails the build."""
    spec = ("--build-arg", f"SPEC={(own / 'mmoe.json').relative_to(ROOT)}")

    def layers() -> list[str]:
        build("evengrad:own", "cpu", *spec)
        found: list[str] = json.loads(docker("inspect", "evengrad:own").stdout)[0]["RootFS"][
            "Layers"
        ]
        return found

    before = layers()
    with (own / "mmoe.py").open("a") as code:
        code.write("# Changed.\n")
    after = layers()
    assert before[:-1] == after[:-1]
    assert before != after
    containers.append(Container("evengrad:own", tmp_path))
    assert containers[0].wait() == 0, containers[0].logs[-3000:]
    assert '"version":"0.8.1"' in docker(
        "run", "--rm", "--entrypoint", "pip", "evengrad:own", "inspect"
    ).stdout.replace(" ", "")
    (own / "requirements.txt").write_text("numpy==1.24.4\n")
    output = build("evengrad:own", "cpu", *spec, code=1)
    assert "numpy==1.24.4" in output
    assert "conflict" in output.lower()


# --- a run in it ----------------------------------------------------------------------------------


LONGER = SPEC | {"train.epochs": 60}
"""Long enough to train still when a signal comes through the engine."""


@pytest.fixture(scope="module")
def undisturbed(image: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a run that nothing disturbed, in a container."""
    folder = tmp_path_factory.mktemp("undisturbed")
    container = Container(image, folder, write(folder / "specs", LONGER))
    try:
        assert container.wait() == 0, container.logs
    finally:
        docker("rm", "-f", container.name)
    return weights(folder)


def test_sigterm(
    image: str, undisturbed: bytes, tmp_path: Path, containers: list[Container]
) -> None:
    """Exit code 75, and a state from which the next container ends undisturbed; a third one trains
    nothing."""
    spec = write(tmp_path / "specs", LONGER)
    first = Container(image, tmp_path, spec)
    containers.append(first)
    first.until_step(12)
    docker("stop", "-t", "60", first.name)
    assert first.wait() == 75, first.logs  # it was not killed, which would be 137
    second = Container(image, tmp_path, spec)
    containers.append(second)
    assert second.wait() == 0, second.logs
    assert weights(tmp_path) == undisturbed
    third = Container(image, tmp_path, spec)
    containers.append(third)
    assert third.wait() == 0
    assert "has finished; nothing is trained" in third.logs
    assert '"event"' not in third.logs


def test_docker_kill(
    image: str, undisturbed: bytes, tmp_path: Path, containers: list[Container]
) -> None:
    """Killed in mid-run and started again, it ends bit for bit as the undisturbed run."""
    spec = write(tmp_path / "specs", LONGER)
    for step in (12, 30):
        killed = Container(image, tmp_path, spec)
        containers.append(killed)
        killed.until_step(step)
        docker("kill", killed.name)
        assert killed.wait() == 137
    last = Container(image, tmp_path, spec)
    containers.append(last)
    assert last.wait() == 0, last.logs
    assert weights(tmp_path) == undisturbed
    history = read_history(DirectoryStore(tmp_path / "store"), KEY)
    steps = [e["step"] for e in history if e["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1))


def test_inside(image: str, tmp_path: Path, containers: list[Container]) -> None:
    """Not root, no capability, nothing writable but /tmp and the store, healthy; PID 1 reaps
    processes that are not its children; the log has no secret."""
    spec = write(tmp_path / "specs", SPEC | {"train.epochs": 100_000})
    container = Container(image, tmp_path, spec)
    containers.append(container)
    container.until_step(5)
    assert container.python("import os; print(os.getuid(), os.getgid())") == f"{USER} {USER}\n"
    container.python("open('/app/x', 'w')", result=1)
    assert "job.supervise" in container.python("print(open('/proc/1/cmdline').read())")
    docker("exec", container.name, "python", "-m", "job.run.liveness")
    status = container.python("print(open('/proc/1/status').read())")
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    docker("exec", container.name, "sh", "-c", "(sleep 0.2 &)")
    orphans = "from glob import glob; print(sum('(sleep)' in open(f).read() for f in " \
        "glob('/proc/[0-9]*/stat')))"  # fmt: skip
    until(lambda: container.python(orphans) == "0\n", pause=0.2)  # zombies are there, too
    assert SECRET not in container.logs


def test_only_the_baked_spec(image: str, tmp_path: Path, containers: list[Container]) -> None:
    """Another spec in the place of the baked one is refused."""
    spec = write(tmp_path / "specs")
    container = Container(image, tmp_path, None, "-v", f"{spec}:/job/spec.json:ro")
    containers.append(container)
    assert container.wait() == 2
    assert "the image was built with" in container.logs


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_hours": 8 / 3600}, "deadline_exceeded"),
        ({"stall_minutes": 8 / 60, "start_timeout_minutes": 8 / 60}, "stalled"),
    ],
)
def test_limits(
    image: str,
    tmp_path: Path,
    containers: list[Container],
    limits: dict[str, float],
    reason: str,
) -> None:
    """The deadline and the stall limit end a run that would not end; the reason is stored."""
    edits = SPEC | {"train.epochs": 100_000, "resources": RESOURCES | limits}
    container = Container(image, tmp_path, write(tmp_path / "specs", edits))
    containers.append(container)
    if reason == "stalled":
        os.kill(container.trainer(), signal.SIGSTOP)
    assert container.wait() == 1, container.logs
    result = read_document(DirectoryStore(tmp_path / "store"), KEY, "result.json")
    assert result is not None
    assert result["reason"] == reason


def test_it_ends_its_pod(image: str, tmp_path: Path, containers: list[Container]) -> None:
    """Against an API that fails, hangs and at last accepts, the container tries again and again,
    and never exits; its log ends with how the run ended."""
    answers = [500, 500, HANG, 500, 204]
    with stub_api(answers) as api:
        settings = {
            "RUNPOD_POD_ID": "pod-1",
            "RUNPOD_API_KEY": SECRET,
            "RUNPOD_API_URL": f"http://127.0.0.1:{api.port}",
        }
        more = [part for name, value in settings.items() for part in ("-e", f"{name}={value}")]
        container = Container(image, tmp_path, write(tmp_path / "s"), "--network", "host", *more)
        containers.append(container)
        asked = wait_for(api, 5, SECONDS)
        key = f"Bearer {SECRET}"
        delete = Asked("DELETE", "/pods/pod-1", key, "")
        stop = Asked("POST", "/pods/pod-1/action", key, '{"action":"stop"}')
        assert asked == [delete, stop, delete, stop, delete]
        end = "supervisor: exit 0: done, and all gates passed\n"
        until(lambda: "RunPod has accepted" in container.logs, say=lambda: container.logs)
        until(lambda: docker("logs", container.name).stderr.endswith(end), pause=0.1)
        assert container.state()["Running"]
        assert SECRET not in container.logs


# --- compose --------------------------------------------------------------------------------------


class Compose:
    """The compose file under a project name of its own."""

    def __init__(self) -> None:
        self.project = f"evengrad-test-{uuid.uuid4().hex[:8]}"
        (self.port,) = free_ports(1)
        self.settings = {"S3_PORT": str(self.port), "TORCH_INDEX": ""}

    def __call__(
        self, *arguments: str, code: int | None = 0, **more: str
    ) -> subprocess.CompletedProcess[str]:
        settings = {**self.settings, **more}
        return docker("compose", "-p", self.project, *arguments, code=code, **settings)

    def store(self, monkeypatch: pytest.MonkeyPatch) -> Store:
        """The bucket, once the server answers."""
        self("up", "-d", "--wait", "s3")
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "evengrad",
            "AWS_SECRET_ACCESS_KEY": "for-this-machine-only",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://evengrad/runs")
        until(lambda: answering(store), pause=0.5)
        return store


@pytest.fixture
def compose() -> Iterator[Compose]:
    """The compose file, from a clean state to a clean state."""
    made = Compose()
    yield made
    made("down", "-v", "--timeout", "2", code=None)


def refuse(_: Kept, why: str) -> None:
    """No checkpoint may be damaged."""
    raise AssertionError(why)


def answering(store: Store) -> bool:
    """True once the server, started again, has its objects."""
    with suppress(Unavailable):
        for entry in store.list(""):
            store.get(entry.key)
        return True
    return False


def test_compose(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command ends with the job's exit code, and leaves a verified checkpoint, gapless events
    and the result in the bucket; again, it is a new run; with RUN_ID the same, which has ended."""
    up = ("up", "--build", "--exit-code-from", "job")
    first = compose(*up)
    assert '"reason":"succeeded"' in first.stdout
    compose("up", "--exit-code-from", "job")
    store = compose.store(monkeypatch)
    runs = {entry.key.split("/")[1] for entry in store.list("smoke/")}
    assert len(runs) == 2
    for run in runs:
        key = f"smoke/{run}"
        everything = read_history(store, key, superseded=True)
        assert [e["seq"] for e in everything] == list(range(1, len(everything) + 1))
        head = RunIndexStore(store, key, fenced=False).read()
        assert head is not None
        assert restore(store, key, head, refuse) is not None
        result = read_document(store, key, "result.json")
        assert result is not None
        assert result["exit_code"] == 0
    again = compose("up", "--exit-code-from", "job", RUN_ID=run)
    assert "nothing is trained" in again.stdout + again.stderr


def test_no_request_is_anonymous(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the local S3 server shows nothing."""
    compose.store(monkeypatch)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{compose.port}/evengrad")


def test_the_compose_file(compose: Compose) -> None:
    """Nothing needs to be set; no service may gain privileges, and the job has none; the GPU's
    service stands in a profile, with a device reserved; base images may be given by digest."""
    plain = json.loads(compose("config", "--format", "json").stdout)
    assert set(plain["services"]) == {"s3", "job"}
    for service in plain["services"].values():
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert plain["services"]["job"]["cap_drop"] == ["ALL"]
    with_gpu = json.loads(compose("--profile", "gpu", "config", "--format", "json").stdout)
    gpu = with_gpu["services"]["job-gpu"]
    assert gpu["build"]["target"] == "cuda"
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    options = ("--env-file", "docker/base-images.env")
    pinned = json.loads(compose(*options, "config", "--format", "json").stdout)["services"]
    for image in (pinned["s3"]["image"], pinned["job"]["build"]["args"]["PYTHON"]):
        assert re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image)
