"""The trainer as several processes under torchrun, in one container and in two: the container's
codes, signals and deaths are the same as with one."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from job.record.history import read_document
from job.run.exit_relay import code_file, relaying
from job.spec import Resources
from job.store.directory import DirectoryStore
from job.supervise.admit import NotAdmitted
from job.supervise.launch import (
    Cluster,
    cluster_of,
    trainer_command,
    trainer_environment,
)
from tests.support.runs import EPOCHS, SPEC, Run, Undisturbed, assert_whole
from tests.support.supervised import Container, alive, ended
from tests.support.tiny_job import HUGE, SMALL, STEPS, write
from tests.support.warm_process import Nursery, until

KEY = "small/r"
RENT = {"gpu": ["any"], "max_price_per_hour": 1, "max_hours": 1, "gpu_count": 2}
TWO = SPEC | {"resources": RENT}
FAILING = {"gates": [{"task": "pair", "skill": 0.99, "by_epoch": 3}]}
LONG = TWO | {"train.epochs": 100_000}
SLOW = pytest.mark.slow
PLANTED = """
import os, sys
if "run" in sys.orig_argv and os.environ.get("RANK") == "{rank}" and not os.path.exists({once!r}):
    import job.train.trainer
    step = job.train.trainer.Trainer._step
    def failing(self, *arguments):
        if self.at.step == 7:
            open({once!r}, "w").close()
            {deed}
        step(self, *arguments)
    job.train.trainer.Trainer._step = failing
"""


def plant(folder: Path, rank: int, deed: str) -> None:
    """Have one rank do something at step 7, once."""
    folder.mkdir(parents=True, exist_ok=True)
    text = PLANTED.format(rank=rank, once=str(folder / "once"), deed=deed)
    (folder / "sitecustomize.py").write_text(text)


def children(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers(container: Container) -> list[int]:
    """Process ids of the ranks, by rank."""
    return sorted(children(container.trainer()), key=lambda pid: variable(pid, "RANK"))


def variable(pid: int, name: str) -> str:
    """A process's environment variable."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.partition("=")[::2] for pair in pairs)[name]


def gone(pids: list[int]) -> bool:
    """True if none of these processes runs; outside a container, orphans may wait to be reaped."""
    return all(state(pid) in ("", "Z") for pid in pids)


def state(pid: int) -> str:
    """A process's state, such as R, S or Z; "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def losses(events: list[dict[str, Any]]) -> list[float]:
    """All losses in steps and epochs, in order."""
    return [
        task[name]
        for event in events
        if event["event"] in ("step", "epoch")
        for task in event["tasks"].values()
        for name in ("loss", "grad_norm", "weight", "val_loss", "train_loss")
        if name in task
    ]


def last_step(events: list[dict[str, Any]]) -> int:
    """The last step among events."""
    return int([e["step"] for e in events if e["event"] == "step"][-1])


def like(run: Undisturbed) -> Any:
    """The losses of a run, to rounding."""
    return pytest.approx(losses(run.end.progress), rel=1e-3, abs=1e-5)


# --- one machine ----------------------------------------------------------------------------------


@SLOW
def test_two_processes_train_as_one(tmp_path: Path, undisturbed: Undisturbed) -> None:
    """With two GPUs to rent, two processes train; events come once, and are those of one process;
    the container's only line is its own exit."""
    container = ended(tmp_path / "1", write(tmp_path, TWO), str(tmp_path / "store"))
    assert container.process.returncode == 0, container.err
    assert container.err == "supervisor: exit 0: done, and all gates passed\n"
    assert [e["seq"] for e in container.events] == list(range(1, len(container.events) + 1))
    assert container.events[0]["device"].startswith("2 × cpu")
    assert losses(container.events) == like(undisturbed)


@SLOW
@pytest.mark.parametrize(
    ("edits", "code", "expected"),
    [
        ({"tasks": [*SMALL["tasks"], HUGE], "model.init.heads": "default"}, 1, "task huge is inf"),
        ({"tasks": [{**SMALL["tasks"][0], "outputs": 3, "level": "step"}]}, 2, "$.tasks[0]"),
        ({"balance": {"kind": "torchjd", "method": "No"}}, 2, "$.balance"),
    ],
    ids=["loss that is not finite", "data that does not fit", "no such method"],
)
def test_the_code_is_the_first_ranks(
    tmp_path: Path, edits: dict[str, Any], code: int, expected: str
) -> None:
    """A NaN and an unusable spec keep their codes and messages, and are not tried again."""
    edits = {"resources": RENT} | edits
    container = ended(tmp_path / "1", write(tmp_path, edits), str(tmp_path / "store"))
    assert container.process.returncode == code, container.err
    assert "restart" not in container.err
    status = read_document(DirectoryStore(tmp_path / "store"), KEY, "status.json")
    assert status is not None
    assert status["exit_code"] == code
    assert expected in (status["error"] or "")


@pytest.mark.slow
def test_a_run_goes_on_in_any_number_of_processes(
    tmp_path: Path, nursery: Nursery, undisturbed: Undisturbed
) -> None:
    """SIGTERM ends both ranks after the same step, with 75; one process goes on from there, then
    two again. Their losses are those of one undisturbed process, and the code at the end is the
    first rank's: its gate failed."""
    run = Run(nursery, write(tmp_path, TWO | FAILING), str(tmp_path / "store"))
    with alive(tmp_path / "1", run.spec, run.url) as container:
        container.until_step(20)
        ranks = workers(container)
        container.process.send_signal(signal.SIGTERM)
        assert container.wait() == 75, container.err
    assert gone(ranks)
    assert "[default0]:run r interrupted at step" in container.err
    alone = run.start()
    alone.until_step(alone_from := last_step(container.events) + 5)
    alone.signal(signal.SIGTERM)
    assert alone.wait() == 75
    assert alone.events[0]["resumed_from"] == alone_from - 5
    last = ended(tmp_path / "2", run.spec, run.url)
    assert last.process.returncode == 6, last.err
    assert last.events[0]["resumed_from"] == last_step(alone.events)
    assert losses(run.history()) == like(undisturbed)
    assert_whole(run)


@SLOW
@pytest.mark.parametrize(
    ("victim", "expected"),
    [
        ("rank 0", "was ended by SIGKILL"),
        ("rank 1", "lost its device"),
        ("torchrun", "was ended by SIGKILL"),
    ],
)
def test_a_death_ends_all_and_starts_all_again(tmp_path: Path, victim: str, expected: str) -> None:
    """Whoever is killed, no process of the old trainer is left, and a new one goes on."""
    with alive(tmp_path / "1", write(tmp_path, TWO), str(tmp_path / "store")) as container:
        container.until_step(20)
        torchrun, ranks = container.trainer(), workers(container)
        pid = torchrun if victim == "torchrun" else ranks[int(victim[-1])]
        os.kill(pid, signal.SIGKILL)
        until(lambda: "restart 1 of 3" in container.err, say=lambda: container.err)
        until(lambda: gone([torchrun, *ranks]), say=lambda: container.err)
        assert container.wait() == 0, container.err
    assert expected in container.err
    starts = [e for e in container.events if e["event"] == "run.started"]
    assert len(starts) == 2
    assert starts[1]["resumed_from"] > 0


@SLOW
@pytest.mark.parametrize("rank", [0, 1])
def test_memory_that_runs_out_on_one_rank(tmp_path: Path, rank: int) -> None:
    """Out of memory on either rank ends the trainer, not the run: the next start goes on."""
    plant(tmp_path / "1", rank, "import torch; raise torch.OutOfMemoryError('CUDA out of memory')")
    container = ended(tmp_path / "1", write(tmp_path, TWO), str(tmp_path / "store"))
    assert container.process.returncode == 0, container.err
    assert "restart 1 of 3" in container.err
    assert "restart 2 of 3" not in container.err


@SLOW
def test_an_error_of_one_rank_ends_all(tmp_path: Path) -> None:
    """An error that only the other rank meets is in the log, and does not leave rank 0 waiting."""
    plant(tmp_path / "1", 1, "raise KeyError('on rank 1')")
    container = ended(tmp_path / "1", write(tmp_path, TWO), str(tmp_path / "store"))
    assert container.process.returncode == 0, container.err  # it came once
    assert "[default1]:KeyError: 'on rank 1'" in container.err


@SLOW
@pytest.mark.parametrize("rank", [0, 1])
def test_a_frozen_rank_does_not_keep_the_container(tmp_path: Path, rank: int) -> None:
    """With one rank stopped the container still ends within its grace, and leaves no process."""
    spec = write(tmp_path, LONG)
    with alive(tmp_path / "1", spec, str(tmp_path / "store"), EVENGRAD_GRACE="1") as container:
        container.until_step(3)
        ranks = workers(container)
        os.kill(ranks[rank], signal.SIGSTOP)
        container.process.send_signal(signal.SIGTERM)
        assert container.wait() == 75, container.err
        until(lambda: gone(ranks))


# --- two machines ---------------------------------------------------------------------------------


def machines(folder: Path, spec: Path, **settings: str) -> list[Container]:
    """Two containers of a cluster, one process each; only the first has the store."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {
        "NUM_NODES": "2",
        "NUM_TRAINERS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "PRIMARY_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NCCL_SOCKET_IFNAME": "lo",
    }
    return [
        Container(
            folder / f"node{n}", spec, str(folder / f"store{n}"), **shared | {"NODE_RANK": str(n)}
        )
        for n in range(2)
    ]


def kill_all(containers: list[Container]) -> None:
    """Kill the containers that still run."""
    for container in containers:
        if container.process.poll() is None:
            for pid in [container.process.pid, *children(container.process.pid)]:
                os.kill(pid, signal.SIGKILL)
            container.process.wait()


@pytest.mark.slow
def test_two_machines_train_as_one(tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Two containers of a cluster train one run: the first records it, as one process would; the
    other ends with the same code, without a record of its own."""
    containers = machines(tmp_path, write(tmp_path, TWO))
    try:
        assert [container.wait() for container in containers] == [0, 0], [
            container.err for container in containers
        ]
    finally:
        kill_all(containers)
    assert losses(containers[0].events) == like(undisturbed)
    assert containers[1].out == ""
    assert f'"step": {EPOCHS * STEPS}' in containers[1].liveness_file.read_text()
    assert not (tmp_path / "store1" / KEY).exists()
    assert [container.err for container in containers] == [
        "supervisor: exit 0: done, and all gates passed\n"
    ] * 2


@SLOW
def test_a_signal_to_either_machine_stops_both(tmp_path: Path) -> None:
    """A container of a cluster that gets a signal ends the other too: 75, and resumable."""
    containers = machines(tmp_path, write(tmp_path, LONG))
    try:
        containers[0].until_step(20)
        containers[1].process.send_signal(signal.SIGTERM)
        assert [container.wait() for container in containers] == [75, 75], [
            container.err for container in containers
        ]
    finally:
        kill_all(containers)
    assert "interrupted at step" in containers[0].err


@SLOW
@pytest.mark.parametrize("node", [0, 1])
def test_a_death_on_either_machine_starts_both_again(tmp_path: Path, node: int) -> None:
    """A rank that is killed ends the trainers of both machines; both start again and finish."""
    containers = machines(tmp_path, write(tmp_path, TWO | {"train.epochs": 60}))
    try:
        containers[0].until_step(20)
        os.kill(children(containers[node].trainer())[0], signal.SIGKILL)
        assert [container.wait() for container in containers] == [0, 0], [
            container.err for container in containers
        ]
    finally:
        kill_all(containers)
    assert all("restart 1 of 3" in container.err for container in containers)


@SLOW
def test_failed_gates_are_the_end_of_both(tmp_path: Path) -> None:
    """Both containers end with rank 0's exit code."""
    containers = machines(tmp_path, write(tmp_path, {"resources": RENT} | FAILING))
    try:
        assert [container.wait() for container in containers] == [6, 6], [
            container.err for container in containers
        ]
    finally:
        kill_all(containers)


# --- values ---------------------------------------------------------------------------------------


RESOURCES = Resources.model_validate({**RENT, "gpu": ("any",), "gpu_count": 4})
OF_TWO = {
    "NUM_NODES": "2",
    "NODE_RANK": "1",
    "NUM_TRAINERS": "8",
    "PRIMARY_ADDR": "10.65.0.2",
    "PRIMARY_PORT": "29400",
}


def test_one_gpu_needs_no_torchrun() -> None:
    """For one GPU, or none, the trainer is one process."""
    one = RESOURCES.model_copy(update={"gpu_count": 1})
    for resources in (one, None):
        assert trainer_command(["run", "s"], Cluster(), resources, 5.0)[1:] == [
            "-m",
            "job",
            "run",
            "s",
        ]


def test_the_command_of_several_gpus() -> None:
    """torchrun, its own rendezvous, a process a GPU, no restart, and longer than the grace."""
    assert trainer_command(["run", "s"], Cluster(), RESOURCES, 5.5)[1:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4",
        "--max-restarts", "0", "--tee", "2", "--shutdown-timeout", "8", "-m", "job", "run", "s",
    ]  # fmt: skip


def test_the_command_of_a_cluster() -> None:
    """Address, port and number of processes come from RunPod's variables."""
    cluster = cluster_of(OF_TWO)
    assert cluster == Cluster(2, 1, 8, "10.65.0.2", 29400)
    assert trainer_command(["run", "s"], cluster, RESOURCES, 5.0)[1:] == [
        "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", "1",
        "--master-addr", "10.65.0.2", "--master-port", "29400", "--nproc-per-node", "8",
        "--max-restarts", "0", "--tee", "2", "--shutdown-timeout", "7", "-m", "job", "run", "s",
    ]  # fmt: skip
    without = cluster_of({k: v for k, v in OF_TWO.items() if k != "NUM_TRAINERS"})
    assert trainer_command(["run", "s"], without, RESOURCES, 5.0)[12] == "4"


def test_a_preset_cluster_of_one_is_none() -> None:
    """One machine is no cluster, whatever else is preset."""
    assert cluster_of({}) == cluster_of(OF_TWO | {"NUM_NODES": "1"}) == Cluster()


def test_the_machines_network() -> None:
    """Between machines NCCL and gloo use the cluster's interface, unless another is named."""
    cluster = cluster_of(OF_TWO)
    names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
    assert [trainer_environment({}, cluster)[n] for n in names] == ["ens1", "ens1"]
    assert [trainer_environment({names[0]: "eth1"}, cluster)[n] for n in names] == ["eth1", "eth1"]
    assert trainer_environment({"A": "b"}, Cluster()) == {"A": "b"}


@pytest.mark.parametrize("cluster", [Cluster(), Cluster(2, 1, 8, "10.65.0.2", 29400)])
def test_the_trainer_does_not_get_the_pods_key(cluster: Cluster) -> None:
    """The key that deletes the pod stays with the supervisor."""
    given = {"RUNPOD_API_KEY": "key", "RUNPOD_POD_ID": "pod-1"}
    assert "key" not in trainer_environment(given, cluster).values()
    assert trainer_environment(given, cluster)["RUNPOD_POD_ID"] == "pod-1"


@pytest.mark.parametrize(
    ("edits", "rule"),
    [
        ({"NUM_NODES": "two"}, "NUM_NODES: found 'two'; must be a number, 1 or more"),
        ({"NODE_RANK": "2"}, "NODE_RANK: found '2'; must be a number, 0 to 1"),
        ({"NODE_RANK": ""}, "NODE_RANK: found ''; must be a number, 0 to 1"),
        ({"NUM_TRAINERS": "0"}, "NUM_TRAINERS: found '0'; must be a number, 1 or more"),
        ({"PRIMARY_ADDR": ""}, "MASTER_ADDR: found nothing beside NUM_NODES=2; set it"),
        ({"PRIMARY_PORT": "x"}, "PRIMARY_PORT: found 'x'; must be a number, 1 to 65535"),
    ],
)
def test_a_cluster_that_is_not_whole(edits: dict[str, str], rule: str) -> None:
    """The missing or wrong variable is named, with exit code 2."""
    with pytest.raises(NotAdmitted, match=rule) as caught:
        cluster_of(OF_TWO | edits)
    assert caught.value.code == 2


def test_without_torchrun_no_code_is_written(tmp_path: Path) -> None:
    """The code of a process alone is its exit code; there is no file beside the liveness file."""
    path = tmp_path / "liveness.json"
    with pytest.raises(SystemExit) as caught, relaying({"EVENGRAD_HEARTBEAT": str(path)}):
        raise SystemExit(6)
    assert caught.value.code == 6
    assert not code_file(path).exists()
