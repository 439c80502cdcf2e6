"""The simulated RunPod keeps the contract of the real one, and fails as a test wants it to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import referencing
import referencing.jsonschema
from jsonschema import Draft202012Validator

from tests.runpod.catalog import Gpu, cuda_of
from tests.runpod.client import GPU, IMAGE, asking, body, made, names, shell
from tests.runpod.container import Timing
from tests.runpod.faults import Fault, Oddity, Operation
from tests.runpod.simulator import Simulator, simulated
from tests.support.command import ROOT
from tests.support.warm_process import until

CONTRACT = ROOT.parent / "shared/contracts/runpod-openapi-v2.json"
QUICK = Timing(provisioning=0.0, starting=0.0, grace=0.0, keep_alive=0.1)
AVAILABLE = {"include": "AVAILABILITY", "product": "POD"}


@pytest.fixture
def runpod(tmp_path: Path) -> Iterator[Simulator]:
    """One whose pods sleep."""
    with simulated(tmp_path, start=shell("exec sleep 600"), timing=QUICK) as made:
        made.images[IMAGE] = tmp_path
        yield made


@pytest.fixture
def client(runpod: Simulator) -> Iterator[httpx.Client]:
    """A client with the account's key."""
    with asking(runpod) as made:
        yield made


@pytest.fixture(scope="module")
def schema() -> Any:
    """A validator for each of the contract's component schemas, by name."""
    if not CONTRACT.exists():
        pytest.skip("the contract is not here")
    contract = json.loads(CONTRACT.read_text())
    resource = referencing.jsonschema.DRAFT202012.create_resource(contract)
    registry = referencing.Registry().with_resource("urn:contract", resource)

    def validator(name: str) -> Draft202012Validator:
        pointer = {"$ref": f"urn:contract#/components/schemas/{name}"}
        checker = Draft202012Validator.FORMAT_CHECKER
        return Draft202012Validator(pointer, registry=registry, format_checker=checker)

    return validator


# --- the contract ---------------------------------------------------------------------------------


def test_replies_are_valid(runpod: Simulator, client: httpx.Client, schema: Any) -> None:
    """Every kind of reply is what the contract says, and has a request id and a quota."""
    pod = made(runpod, client, env={"A": "b"}, disk=20, ports=["22/tcp"], cloud="COMMUNITY")
    cpu = made(runpod, client, "c", gpu=None, cpu={"id": "cpu3c", "vcpuCount": 4})
    replies = {"Pod": [client.post("pods", json=body())]}
    until(lambda: pod.boots == 1 and cpu.boots == 1)
    replies["Pod"] += [client.get(f"pods/{found}") for found in runpod.pods]
    action = f"pods/{pod.id}/action"
    replies["Pod"] += [client.post(action, json={"action": "stop"}), client.get(f"pods/{pod.id}")]
    replies["ListPodsResponse"] = [client.get("pods")]
    replies["ListGpuTypesResponse"] = [
        client.get("catalog/gpus"),
        client.get("catalog/gpus", params=AVAILABLE | {"minCudaVersion": "12.8"}),
        client.get("catalog/gpus", params=AVAILABLE | {"minCudaVersion": "99.0"}),
    ]
    problems = [client.get("pods/none"), client.post("pods", json={}), client.get("nowhere")]
    runpod.faults.get = [Fault(status) for status in (400, 401, 402, 403, 404, 429, 500)]
    problems += [client.get(f"pods/{pod.id}") for _ in range(7)]
    assert [found.status_code for found in problems[3:]] == [400, 401, 402, 403, 404, 429, 500]
    replies["ErrorResponse"] = problems
    for name, answers in replies.items():
        for answer in answers:
            schema(name).validate(answer.json())
            assert answer.headers["x-request-id"]
            assert "RateLimit" in answer.headers
            kind = "problem+json" if answer.status_code >= 400 else "json"
            assert answer.headers["content-type"] == f"application/{kind}"
    assert client.delete(f"pods/{pod.id}").content == b""


BAD: dict[str, Any] = {
    "unknown": body(interruptible=True),
    "unknown of the gpu": body(gpu={"id": GPU, "memory": 1}),
    "no gpu id": body(gpu={"count": 1}),
    "no name": body(name=None),
    "empty name": body(""),
    "no image": body(image=None),
    "env of numbers": body(env={"A": 1}),
    "no GPUs": body(gpu={"id": GPU, "count": 0}),
    "half a GPU": body(gpu={"id": GPU, "count": 0.5}),
    "CUDA": body(gpu={"id": GPU, "minCudaVersion": "12"}),
    "cloud": body(cloud="ALL"),
    "disk": body(disk=0),
    "ports": body(ports="22/tcp"),
    "cpu": body(cpu={"id": "cpu3c", "vcpuCount": 1}),
    "mount": body(mounts={"persistent": {"size": 9, "path": "/a"}}),
    "volumes": body(mounts={"network": [{"volumeId": "v"}]}),
    "not an object": [],
}
GOOD: dict[str, Any] = {
    "plain": body(),
    "all": body(
        args="",
        cloud="COMMUNITY",
        dataCenterIds=["EU-RO-1"],
        disk=5,
        env={"A": "b"},
        gpu={"id": GPU, "count": 2, "minCudaVersion": "12.4", "allowedCudaVersions": []},
        mounts={"network": [{"volumeId": "v", "path": "/v"}]},
        ports=["22/tcp"],
        registry=None,
        startSsh=False,
    ),
}


@pytest.mark.parametrize("case", BAD | GOOD)
def test_what_is_accepted(client: httpx.Client, case: str) -> None:
    """A body that breaks the contract is refused with a 422 that says where."""
    answer = client.post("pods", json=(BAD | GOOD)[case])
    assert answer.status_code == (201 if case in GOOD else 422), answer.text
    assert case in GOOD or answer.json()["errors"]


def test_the_contract_accepts_the_same(schema: Any) -> None:
    """What is refused with a 422 is what the contract's own schema does not allow."""
    valid = schema("CreatePodRequest").is_valid
    assert {case for case, asked in (BAD | GOOD).items() if valid(asked)} == set(GOOD)


@pytest.mark.parametrize(
    "asked",
    [
        body(cpu={"id": "cpu3c", "vcpuCount": 2}),
        body(gpu=None),
        body("n" * 192),
        body(env={f"V{n}": "" for n in range(51)}),
        body(gpu={"id": GPU, "minCudaVersion": "12.8", "allowedCudaVersions": ["12.8"]}),
        body(gpu={"id": "NVIDIA Abacus"}),
    ],
    ids=["both", "neither", "name", "env", "cuda", "gpu"],
)
def test_rules_beyond_the_schema(client: httpx.Client, asked: dict[str, Any]) -> None:
    """What only RunPod's handlers refuse is a 400, and makes no pod."""
    assert client.post("pods", json=asked).status_code == 400
    assert names(client) == []


def test_who_may_ask(runpod: Simulator, client: httpx.Client) -> None:
    """An unknown key is a 401 and no agent a 403; a pod's key reads, stops and deletes its own pod,
    and nothing else."""
    one, two = made(runpod, client, "one"), made(runpod, client, "two")
    assert client.get("pods", headers={"Authorization": "Bearer x"}).status_code == 401
    assert client.get("pods", headers={"User-Agent": "Python-urllib/3.11"}).status_code == 403
    with asking(runpod, one.key) as pod:
        own = f"pods/{one.id}"
        refused = [
            pod.get("pods"),
            pod.get("catalog/gpus"),
            pod.get(f"{own}/logs"),
            pod.post("pods", json=body()),
            pod.post(f"{own}/action", json={"action": "terminate"}),
            pod.get(f"pods/{two.id}"),
            pod.delete(f"pods/{two.id}"),
            pod.post(f"pods/{two.id}/action", json={"action": "stop"}),
        ]
        assert {answer.status_code for answer in refused} == {403}
        assert pod.get(own).status_code == 200
        assert pod.post(f"{own}/action", json={"action": "stop"}).status_code == 200
        assert pod.delete(own).status_code == 204
        assert pod.delete(own).status_code == 404
    assert names(client) == ["two"]
    assert {asked.key for asked in runpod.asked} == {"none", "account", "pod"}


def test_the_catalogue_and_what_is_placed(runpod: Simulator, client: httpx.Client) -> None:
    """Its rows may be edited, and a pod costs what they say, by cloud and count; what is not there,
    too many or of a newer CUDA is no capacity."""
    assert "12.8" not in cuda_of({"minCudaVersion": "12.11"}), "versions are no decimals"
    runpod.catalog[:] = [
        Gpu("NVIDIA One", 48, 0.5, None, "LOW", max_count=2),
        Gpu("NVIDIA Two", 48, 0.5, 0.2, "NONE"),
    ]
    found = client.get("catalog/gpus", params=AVAILABLE).json()["gpus"]
    assert [gpu["availability"] for gpu in found] == ["LOW", "NONE"]
    assert (found[0]["secure"], found[0]["community"]) == (True, False)
    assert client.get("catalog/gpus", params={"include": "AVAILABILITY"}).status_code == 400
    assert made(runpod, client, gpu={"id": "NVIDIA One", "count": 2}).cost == 1.0
    unplaced: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"id": "NVIDIA One"}, {"cloud": "COMMUNITY"}),
        ({"id": "NVIDIA One"}, {"dataCenterIds": ["XX-1"]}),
        ({"id": "NVIDIA One", "count": 3}, {}),
        ({"id": "NVIDIA One", "minCudaVersion": "99.0"}, {}),
        ({"id": "NVIDIA Two"}, {}),
    ]
    for gpu, more in unplaced:
        answer = client.post("pods", json=body(gpu=gpu, **more))
        assert (answer.status_code, answer.json()["detail"]) == (400, runpod.faults.no_capacity)


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("answer", [500, 502, 429, 402, "cut", "silence", "broken"], ids=str)
def test_a_create_that_fails(
    runpod: Simulator, client: httpx.Client, answer: Any, done: bool
) -> None:
    """Whether a pod exists after an error does not depend on the client's answer."""
    runpod.faults.create = [Fault(answer, done=done, retry_after=7)]
    heard: Any
    try:
        reply = client.post("pods", json=body(), timeout=0.5 if answer == "silence" else 600)
        heard = reply.status_code
        if heard == 502:
            assert reply.headers["content-type"] == "text/html"
        if heard == 429:
            assert reply.headers["retry-after"] == "7"
        if answer == "broken":
            with pytest.raises(json.JSONDecodeError):
                reply.json()
            heard = "broken"
    except httpx.ReadTimeout:
        heard = "silence"
    except httpx.RemoteProtocolError:
        heard = "cut"
    assert heard == answer
    assert len(runpod.billing()) == done
    made(runpod, client, "next")


def test_scripts_are_used_up_in_order(runpod: Simulator, client: httpx.Client) -> None:
    """A fault strikes so many times, None lets a request pass, and one for a pod's key waits for
    such a key; other operations are not concerned."""
    pod = made(runpod, client)
    own = f"pods/{pod.id}"
    runpod.faults.get = [Fault(500, times=2), None, Fault(403, text="no")]
    answers = [client.get(own) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [500, 500, 200, 403, 200]
    assert answers[3].json()["detail"] == "no"
    runpod.faults.delete = [Fault(403, key="pod")]
    with asking(runpod, pod.key) as inside:
        assert inside.delete(own).status_code == 403
        assert not pod.gone
        assert client.delete(own).status_code == 204


def test_the_accounts_secrets(runpod: Simulator, client: httpx.Client) -> None:
    """Their names are listed, never their values."""
    runpod.secrets["team/key"] = "the value"
    answer = client.get("account/secrets")
    assert [secret["name"] for secret in answer.json()["secrets"]] == ["team/key"]
    assert "the value" not in answer.text


@pytest.mark.parametrize("operation", ["listing", "delete", "action", "logs", "catalog", "secrets"])
def test_all_operations_may_fail(
    runpod: Simulator, client: httpx.Client, operation: Operation
) -> None:
    """Each operation has a script of its own."""
    pod = made(runpod, client)
    runpod.faults.script(operation).append(Fault(500))
    answer = {
        "listing": lambda: client.get("pods"),
        "delete": lambda: client.delete(f"pods/{pod.id}"),
        "action": lambda: client.post(f"pods/{pod.id}/action", json={"action": "stop"}),
        "logs": lambda: client.get(f"pods/{pod.id}/logs"),
        "catalog": lambda: client.get("catalog/gpus"),
        "secrets": lambda: client.get("account/secrets"),
    }[operation]()
    assert answer.status_code == 500
    assert (pod.gone, pod.bills) == (False, True)


def test_capacity_and_rules(runpod: Simulator, client: httpx.Client) -> None:
    """A card runs out in one cloud and is there again when a pod ends; a rule may refuse all."""
    runpod.faults.capacity[GPU, "SECURE"] = 1
    pod = made(runpod, client)
    answer = client.post("pods", json=body())
    assert (answer.status_code, answer.json()["detail"]) == (400, runpod.faults.no_capacity)
    made(runpod, client, cloud="COMMUNITY")
    client.delete(f"pods/{pod.id}")
    made(runpod, client)
    runpod.faults.rule = "disk must be blue"
    answer = client.post("pods", json=body(gpu={"id": "NVIDIA RTX A4000"}))
    assert (answer.status_code, answer.json()["detail"]) == (400, "disk must be blue")


def test_views_that_lag(runpod: Simulator, client: httpx.Client) -> None:
    """A new pod is missing from lists and from reads for a while, a deleted one is listed on."""
    faults = runpod.faults
    faults.listing_lag = faults.early_404 = faults.stale_listing = 3600
    pod = made(runpod, client)
    until(lambda: pod.status == "RUNNING")
    assert names(client) == []
    assert client.get(f"pods/{pod.id}").status_code == 404
    faults.listing_lag = faults.early_404 = 0.1
    until(lambda: names(client) == ["a"])
    assert client.get(f"pods/{pod.id}").status_code == 200
    client.delete(f"pods/{pod.id}")
    (listed,) = client.get("pods").json()["pods"]
    assert listed["status"] == "RUNNING"
    assert client.get(f"pods/{pod.id}").status_code == 404
    faults.stale_listing = 0.1
    until(lambda: names(client) == [])


def test_lists_in_pages(runpod: Simulator, client: httpx.Client) -> None:
    """Pages lead from one to the next, may begin with an empty one, and may overlap; a cursor that
    is not URL-encoded is refused."""
    for name in "abcde":
        made(runpod, client, name)
    runpod.faults.page_size, runpod.faults.page_overlap = 2, 1
    assert pages(client) == ["ab", "bcd", "de"]
    runpod.faults.empty_first_page = True
    assert pages(client) == ["", "ab", "bcd", "de"]
    cursor = client.get("pods").json()["pagination"]["nextCursor"]
    assert client.get(f"pods?cursor={cursor}").status_code == 400


def pages(client: httpx.Client) -> list[str]:
    """The names on each page of the list."""
    found, query = list[str](), dict[str, str]()
    while True:
        page = client.get("pods", params=query).json()
        found.append("".join(pod["name"] for pod in page["pods"]))
        if not page["pagination"]["hasNextPage"]:
            return found
        query = {"cursor": page["pagination"]["nextCursor"]}


@pytest.mark.parametrize("stuck", ["PROVISIONING", "STARTING", "RUNNING"])
def test_pods_that_are_not_what_was_asked_for(
    runpod: Simulator, client: httpx.Client, stuck: Any
) -> None:
    """Card, count and price may be others, and a pod may never run anything, whatever it says."""
    runpod.faults.pods = [Oddity(gpu="NVIDIA H200", count=8, price=30.0), Oddity(stuck=stuck)]
    odd = client.post("pods", json=body()).json()
    assert (odd["gpu"], odd["cost"]) == ({"id": "NVIDIA H200", "count": 8}, 30.0)
    dead, alive = made(runpod, client), made(runpod, client)
    until(lambda: alive.boots == 1 and dead.status == stuck)
    assert (dead.status, dead.boots, dead.bills) == (stuck, 0, True)
    assert client.delete(f"pods/{dead.id}").status_code == 204


def test_an_api_that_drifts(runpod: Simulator, client: httpx.Client) -> None:
    """Replies may hold fields and statuses that nobody has heard of."""
    pod = made(runpod, client)
    before = client.get("pods").json()
    runpod.faults.unknown_fields, runpod.faults.status = True, "HIBERNATING"
    after = client.get("pods").json()
    assert after.keys() > before.keys()
    assert after["pods"][0].keys() > before["pods"][0].keys()
    assert client.get(f"pods/{pod.id}").json()["status"] == "HIBERNATING"
