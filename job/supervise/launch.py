"""How the trainer is started: as one process, or through torchrun as one process a GPU.

RunPod's Instant Clusters describe several machines in variables: NUM_NODES, NODE_RANK,
NUM_TRAINERS (processes on each), MASTER_ADDR and MASTER_PORT, or PRIMARY_….
Machine 0 admits, counts and concludes the run; the others only train along.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import NamedTuple

from job.env import POD_KEY
from job.exit_codes import INVALID
from job.spec import Resources
from job.supervise.admit import NotAdmitted

TORCHRUN = ["-m", "torch.distributed.run"]
NETWORK = "ens1"
"""Network interface between the machines of an Instant Cluster; eth0 leads outside."""
MARK = "[default0]:"
"""torchrun's prefix of the stderr lines of this machine's first rank."""
MARGIN = 2
"""Seconds beyond the grace after which torchrun kills its processes."""


class Cluster(NamedTuple):
    """The machines that train together, and this machine's number among them."""

    nodes: int = 1
    node: int = 0
    trainers: int | None = None
    """Processes on each; None: as many as the spec rents GPUs."""
    address: str = ""
    port: int = 0
    """Of machine 0, where all connect."""


def cluster_of(environment: Mapping[str, str]) -> Cluster:
    """The cluster that the environment describes; raises NotAdmitted if a part is missing."""
    nodes = _number(environment, "NUM_NODES", 1, 1)
    if nodes == 1:
        return Cluster()
    address = environment.get("MASTER_ADDR") or environment.get("PRIMARY_ADDR")
    if not address:
        raise NotAdmitted(INVALID, f"MASTER_ADDR: found nothing beside NUM_NODES={nodes}; set it")
    port = "MASTER_PORT" if environment.get("MASTER_PORT") else "PRIMARY_PORT"
    return Cluster(
        nodes,
        _number(environment, "NODE_RANK", 0, None, nodes - 1),
        _number(environment, "NUM_TRAINERS", 1, None) if environment.get("NUM_TRAINERS") else None,
        address,
        _number(environment, port, 1, None, 65535),
    )


def _number(
    environment: Mapping[str, str],
    name: str,
    lowest: int,
    default: int | None,
    highest: int = 2**31,
) -> int:
    text = environment.get(name) or ("" if default is None else str(default))
    if text.isascii() and text.isdigit() and lowest <= int(text) <= highest:
        return int(text)
    bound = f"{lowest} or more" if highest == 2**31 else f"{lowest} to {highest}"
    raise NotAdmitted(INVALID, f"{name}: found {text!r}; must be a number, {bound}; set it")


def trainer_command(
    job: list[str], cluster: Cluster, resources: Resources | None, grace: float
) -> list[str]:
    """The trainer's command line; job: arguments of `python -m job`; grace: in seconds."""
    trainers = cluster.trainers or (resources.gpu_count if resources else 1)
    if cluster.nodes * trainers == 1:
        return [sys.executable, "-m", "job", *job]
    where = ["--standalone"]
    if cluster.nodes > 1:
        where = ["--nnodes", str(cluster.nodes), "--node-rank", str(cluster.node)]
        where += ["--master-addr", cluster.address, "--master-port", str(cluster.port)]
    how = ["--nproc-per-node", str(trainers), "--max-restarts", "0"]  # the supervisor restarts
    how += ["--tee", "2", "--shutdown-timeout", str(math.ceil(grace) + MARGIN)]
    return [sys.executable, *TORCHRUN, *where, *how, "-m", "job", *job]


def trainer_environment(environment: Mapping[str, str], cluster: Cluster) -> dict[str, str]:
    """The trainer's variables: without the pod's key, and with the network between machines."""
    own = {name: value for name, value in environment.items() if name != POD_KEY}
    if cluster.nodes == 1:
        return own
    nccl = environment.get("NCCL_SOCKET_IFNAME", NETWORK)
    return {"NCCL_SOCKET_IFNAME": nccl, "GLOO_SOCKET_IFNAME": nccl, **own}
