"""A real S3 server for tests and benchmarks: SeaweedFS on free ports of the loopback."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY = "evengrad-tests"
SECRET_KEY = "only-good-for-this-loopback-server"
NEXT_ACCESS_KEY = "evengrad-tests-next"
NEXT_SECRET_KEY = "only-good-here-after-a-rotation"
"""Another key of the same user, for tests that replace the first one."""
BUCKET = "tests"
READY_SECONDS = 120.0
PARTS = ("master", "volume", "filer")
OPTIONS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-filer",
    "-s3",
    "-s3.autoCreateBucket=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-volume.max=60",  # with few volumes the filer starves and writes hang without an error
    "-master.volumeSizeLimitMB=1024",
    "-master.electionTimeout=1s",  # ready in 3 s instead of 10
    "-master.telemetry=false",
)


class Server(NamedTuple):
    """A running server."""

    port: int
    pid: int

    def environment(self, port: int | None = None) -> dict[str, str]:
        """The variables with which boto3 finds the server, or a proxy in front of it at `port`."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


@contextmanager
def seaweed(folder: Path) -> Iterator[Server]:
    """A server with one bucket, `BUCKET`; its data are in `folder` and are removed with it."""
    server = _start(folder)
    try:
        yield server
    finally:
        _stop(server, folder)


@contextmanager
def shared_seaweed(folder: Path) -> Iterator[Server]:
    """One server for all processes that name the same folder; the last one out stops it."""
    with _users(folder) as users:
        if not users:
            users.update(server=_start(folder / "data"), count=0)
        users["count"] += 1
        server = Server(*users["server"])
    try:
        yield server
    finally:
        with _users(folder) as users:
            users["count"] -= 1
            if not users["count"]:
                _stop(server, folder / "data")
                users.clear()


@contextmanager
def _users(folder: Path) -> Iterator[dict[str, Any]]:
    """The server and the number of its users, locked; changes are written at the end."""
    folder.mkdir(exist_ok=True)
    with (folder / "users.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        users = json.loads(file.read() or "{}")
        yield users
        file.truncate(0)
        json.dump(users, file)


def _start(folder: Path) -> Server:
    folder.mkdir(parents=True)
    identity = {
        "name": "tests",
        "credentials": [
            {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY},
            {"accessKey": NEXT_ACCESS_KEY, "secretKey": NEXT_SECRET_KEY},
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    port, *ports = free_ports(8)
    names = ("s3.port.grpc", *(f"{part}.port{kind}" for part in PARTS for kind in ("", ".grpc")))
    command = [str(Path(sys.executable).with_name("weed")), "server", *OPTIONS]
    command += [f"-dir={folder}", f"-s3.config={folder / 's3.json'}", f"-s3.port={port}"]
    command += [f"-{name}={number}" for name, number in zip(names, ports, strict=True)]
    # By way of a shell that ends, so that the server may outlive the worker that started it.
    detach = ["sh", "-c", '"$@" >"$0" 2>&1 & echo $!', str(folder / "log"), *command]
    started = subprocess.run(detach, check=True, stdout=subprocess.PIPE, start_new_session=True)
    server = Server(port, int(started.stdout))
    try:
        _wait(server)
    except TimeoutError as error:
        log = (folder / "log").read_text(errors="replace")[-4000:]
        _stop(server, folder)
        raise RuntimeError(f"{error}; its log ends:\n{log}") from error
    return server


def _wait(server: Server) -> None:
    """Wait until an object can be put, which needs all parts of the server."""
    config = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1})
    env = server.environment()
    client = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1").client(
        "s3", endpoint_url=env["AWS_ENDPOINT_URL"], config=config
    )
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
            break
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no S3 server after {READY_SECONDS:.0f} s: {error}") from error
            time.sleep(0.2)
    client.close()


def _stop(server: Server, folder: Path) -> None:
    with suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports below the range that the kernel uses for outgoing connections."""
    free: list[int] = []
    for port in random.sample(range(15000, 30000), 1000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
        if len(free) == count:
            return free
    raise RuntimeError("no free ports")
