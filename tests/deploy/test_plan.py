"""A plan is a function of what is known: whole literals, and RunPod's published schema."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deploy.cancel import stored_encryption
from deploy.plan.image import check_pinned, content_tag
from deploy.plan.plan import Candidate, Plan, plan
from deploy.plan.pod_env import left_behind, pod_environment, read_env_file
from deploy.runpod.models import Gpu
from job.errors import InputError
from job.spec import JobSpec
from job.spec.read import parse_spec
from job.store import open_store
from tests.support.command import ROOT
from tests.support.specs import FULL, edited

CONTRACT = ROOT.parent / "shared" / "contracts" / "runpod-openapi-v2.json"
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
IMAGE = "docker.io/me/evengrad@sha256:" + "a" * 64
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "{{ RUNPOD_SECRET_s3_key }}",
    "AWS_SECRET_ACCESS_KEY": "top secret",
    "EVENGRAD_STORE": "s3://bucket/runs",
    "EVENGRAD_NAME": "full-spec",
    "EVENGRAD_GRACE": "3",
    "RUN_ID": "r1",
}
L4, A4000 = "NVIDIA L4", "NVIDIA RTX A4000"
CATALOGUE = {
    "SECURE": [
        Gpu.model_validate(
            {
                "id": L4,
                "memory": 24,
                "price": {"secure": 0.39, "community": 0.32},
                "maxCount": {"secure": 8, "community": 2},
                "availability": "NONE",
                "of a later day": 1,
            }
        ),
        Gpu.model_validate(
            {"id": A4000, "memory": 16, "price": {"secure": 0.25}, "availability": "LOW"}
        ),
    ],
    "COMMUNITY": [
        Gpu.model_validate(
            {
                "id": L4,
                "memory": 24,
                "price": {"secure": 0.39, "community": 0.32},
                "maxCount": {"secure": 8, "community": 2},
                "availability": "HIGH",
            }
        ),
        Gpu.model_validate({"id": A4000, "price": {"secure": 0.25, "community": 0}}),
    ],
}


def spec(**resources: Any) -> JobSpec:
    """FULL with what to rent edited."""
    wanted = {"gpu": [L4], "max_price_per_hour": 1, "max_hours": 0.5} | resources
    return parse_spec(json.dumps(FULL | {"resources": wanted}))


def planned(catalogue: Any = CATALOGUE, registry: str | None = None, **resources: Any) -> Plan:
    """The plan of `spec`."""
    return plan(
        *(spec(**resources), IMAGE, "13.0", catalogue, NOW),
        run_id="r1",
        variables=VARIABLES,
        registry=registry,
    )


def test_request_is_exactly_this() -> None:
    """The body of the first create, letter by letter."""
    assert planned().request(Candidate(L4, "SECURE"), 1) == {
        "name": "evengrad-full-spec-r1-1",
        "image": IMAGE,
        "disk": 20,
        "cloud": "SECURE",
        "gpu": {"id": "NVIDIA L4", "count": 1, "minCudaVersion": "13.0"},
        "env": {
            "AWS_ACCESS_KEY_ID": "{{ RUNPOD_SECRET_s3_key }}",
            "AWS_SECRET_ACCESS_KEY": "top secret",
            "EVENGRAD_STORE": "s3://bucket/runs",
            "EVENGRAD_NAME": "full-spec",
            "EVENGRAD_GRACE": "3",
            "RUN_ID": "r1",
            "EVENGRAD_DEADLINE": "2026-11-23T12:30:00Z",
        },
    }


def test_request_with_everything() -> None:
    """Several GPUs, a higher CUDA, another cloud, a private registry, a later attempt."""
    made = planned(registry="reg1", gpu_count=2, min_cuda="13.2", disk_gb=50, max_hours=30)
    body = made.request(Candidate(L4, "COMMUNITY"), 7)
    env = body.pop("env")
    assert env["EVENGRAD_DEADLINE"] == "2026-11-24T18:00:00Z"
    assert body == {
        "name": "evengrad-full-spec-r1-7",
        "image": IMAGE,
        "disk": 50,
        "cloud": "COMMUNITY",
        "gpu": {"id": "NVIDIA L4", "count": 2, "minCudaVersion": "13.2"},
        "registry": "reg1",
    }


def test_printed_requests_hide_secrets() -> None:
    """What is printed has references and plain settings, and no secret's value."""
    made = planned()
    printed = made.redacted_request(Candidate(L4, "SECURE"), 1)
    assert printed["env"] == {
        "AWS_ACCESS_KEY_ID": "{{ RUNPOD_SECRET_s3_key }}",
        "AWS_SECRET_ACCESS_KEY": "<redacted>",
        "EVENGRAD_STORE": "s3://bucket/runs",
        "EVENGRAD_NAME": "full-spec",
        "EVENGRAD_GRACE": "3",
        "RUN_ID": "r1",
        "EVENGRAD_DEADLINE": "2026-11-23T12:30:00Z",
    }
    assert "top secret" not in repr(made)


def test_candidates_in_order() -> None:
    """The spec's order, what has no stock later, what cannot be last and with its reason."""
    made = planned(gpu=[L4, A4000], cloud=["SECURE", "COMMUNITY"])
    assert made.candidates == (
        Candidate(L4, "COMMUNITY", 0.32, "HIGH", 24, None),
        Candidate(A4000, "SECURE", 0.25, "LOW", 16, None),
        Candidate(L4, "SECURE", 0.39, "NONE", 24, None),
        Candidate(A4000, "COMMUNITY", None, None, None, "not offered in this cloud"),
    )


def test_ceiling_and_count_exclude() -> None:
    """The ceiling is for the whole pod; no cloud is asked for more GPUs than it puts into one."""
    made = planned(gpu=[L4], cloud=["SECURE", "COMMUNITY"], gpu_count=3, max_price_per_hour=1.0)
    assert [(c.cloud, c.price, c.why_not) for c in made.candidates] == [
        ("SECURE", 1.17, "above the ceiling of $1/h"),
        ("COMMUNITY", 0.96, "at most 2 in a pod"),
    ]


def test_offline_knows_no_price() -> None:
    """Without a catalogue every candidate stands, unpriced; the worst case is the ceiling's."""
    made = planned(catalogue=None, gpu=["NVIDIA of tomorrow", L4])
    assert made.candidates == (
        Candidate("NVIDIA of tomorrow", "SECURE"),
        Candidate(L4, "SECURE"),
    )
    assert made.worst_case == 0.5


def test_unknown_gpu() -> None:
    """A GPU that the catalogue has not is an error of the spec, with the one that was meant."""
    with pytest.raises(InputError) as caught:
        planned(gpu=[L4, "NVIDIA RTX A400"])
    assert str(caught.value) == (
        '$.resources.gpu[1]: found "NVIDIA RTX A400"; RunPod\'s catalogue has no GPU of this id; '
        'did you mean "NVIDIA RTX A4000"?'
    )


def test_nothing_to_rent() -> None:
    """A spec without resources cannot be submitted."""
    local = parse_spec(json.dumps({k: v for k, v in FULL.items() if k != "resources"}))
    with pytest.raises(InputError, match=r"^\$\.resources: found nothing;"):
        plan(local, IMAGE, "13.0", None, NOW, run_id="r1", variables={})


def test_later_begin_moves_the_deadline() -> None:
    """The deadline counts from the confirmation, not from the first look."""
    later = planned().at(datetime(2026, 11, 23, 13, 0, tzinfo=UTC))
    env = later.request(Candidate(L4, "SECURE"), 1)["env"]
    assert env["EVENGRAD_DEADLINE"] == "2026-11-23T13:30:00Z"


@pytest.mark.skipif(not CONTRACT.exists(), reason="RunPod's published schema is not here")
@pytest.mark.parametrize("registry", [None, "reg1"])
def test_requests_validate(registry: str | None) -> None:
    """Every body is one that RunPod's schema takes, and none that it refuses."""
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    document = json.loads(CONTRACT.read_text())
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    known: Registry[Any] = Registry().with_resource("urn:v2", resource)
    validator = Draft202012Validator(
        {"$ref": "urn:v2#/components/schemas/CreatePodRequest"}, registry=known
    )
    body = planned(registry=registry).request(Candidate(L4, "SECURE"), 1)
    validator.validate(body)
    assert not validator.is_valid({**body, "ports_": []})
    assert not validator.is_valid({**body, "gpu": {**body["gpu"], "price": 1}})


# --- the container's variables --------------------------------------------------------------------

HOSTILE = {
    "QUOTES": "a\"b'c`d",
    "NEWLINES": "first\nsecond\r\nthird\n",
    "UNICODE": "schlüssel — 鍵 🔑",
    "SHELL": "$(rm -rf /) ${HOME} %PATH% \\ back\\slash",
    "EQUALS": "a=b==",
    "SPACES": "  padded  ",
    "HASH": "a #b",
}


def env_file(folder: Path, values: dict[str, str]) -> Path:
    """Values as python-dotenv's own writer would have them: single quotes, two escapes."""
    lines = []
    for name, value in values.items():
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"{name}='{escaped}'\n")
    path = folder / "pod.env"
    path.write_bytes("".join(lines).encode())
    return path


def test_env_file_values_arrive_unharmed(tmp_path: Path) -> None:
    """Quotes, newlines, unicode, dollars and blanks are what the container gets."""
    assert read_env_file(env_file(tmp_path, HOSTILE)) == HOSTILE


def test_variables_of_a_pod(tmp_path: Path) -> None:
    """Own ones, the endpoint, references from spec and environment, values from the file."""
    job = spec(secrets={"AWS_ACCESS_KEY_ID": "s3_key"})
    mine = {
        "AWS_ENDPOINT_URL": "https://s3.example",
        "AWS_SECRET_ACCESS_KEY": "the submitter's own, which stays here",
        "RUNPOD_API_KEY": "the account's",
        "EVENGRAD_SECRETS": "AWS_SECRET_ACCESS_KEY=s3_secret, OTHER = other",
    }
    file = env_file(tmp_path, {"OTHER": "by value", "MORE": "x"})
    assert pod_environment(job, "s3://b/p", "r1", mine, file) == {
        "AWS_ENDPOINT_URL": "https://s3.example",
        "AWS_ACCESS_KEY_ID": "{{ RUNPOD_SECRET_s3_key }}",
        "AWS_SECRET_ACCESS_KEY": "{{ RUNPOD_SECRET_s3_secret }}",
        "OTHER": "by value",
        "MORE": "x",
        "EVENGRAD_STORE": "s3://b/p",
        "EVENGRAD_NAME": "full-spec",
        "EVENGRAD_SPEC_HASH": job.content_hash(),
        "EVENGRAD_GRACE": "3",
        "RUN_ID": "r1",
    }


def test_settings_of_the_store_travel() -> None:
    """Settings of S3 that are no secrets are passed on; secrets, files and profiles of this machine
    are named as left behind, unless the container gets its own."""
    mine = {
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_SECRET_ACCESS_KEY": "the submitter's own",
        "AWS_SESSION_TOKEN": "the submitter's own",
        "AWS_PROFILE": "mine",
        "AWS_CA_BUNDLE": "/etc/ours.pem",
        "AWS_CONFIG_FILE": "/dev/null",
        "EVENGRAD_SECRETS": "AWS_CA_BUNDLE=bundle",
    }
    variables = pod_environment(spec(), "s3://b/p", "r1", mine)
    assert {name: variables[name] for name in list(mine)[:3]} == dict(list(mine.items())[:3])
    assert left_behind(mine, variables) == ["AWS_PROFILE", "AWS_SESSION_TOKEN"]


def test_cancel_writes_as_the_spec_encrypts(tmp_path: Path) -> None:
    """The encryption of a run's objects is that of its stored spec; unknown if that is damaged."""
    store = open_store(tmp_path)
    assert stored_encryption(store, "full-spec/r") is None
    store.put("full-spec/r/spec.json", b"{")
    assert stored_encryption(store, "full-spec/r") is None
    content = edited(("checkpoint", "encryption"), {"kind": "aws:kms", "key_id": "k"})
    store.put("full-spec/r/spec.json", json.dumps(content).encode())
    encryption = stored_encryption(store, "full-spec/r")
    assert encryption is not None
    assert (encryption.kind, encryption.key_id) == ("aws:kms", "k")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"RUN_ID": "x"}, "RUN_ID; evengrad and RunPod set this variable themselves; remove it"),
        ({"RUNPOD_API_KEY": "k"}, "RUNPOD_API_KEY; evengrad and RunPod set"),
        ({f"V{i}": "x" for i in range(50)}, "50 variables; RunPod takes 50 variables"),
    ],
    ids=["ours", "RunPod's", "too many"],
)
def test_variables_that_are_refused(tmp_path: Path, values: dict[str, str], text: str) -> None:
    """What evengrad or RunPod sets, and more than RunPod takes."""
    with pytest.raises(InputError) as caught:
        pod_environment(spec(), "s3://b/p", "r1", {}, env_file(tmp_path, values))
    assert text in str(caught.value)


@pytest.mark.parametrize("text", ["AWS_KEY", "=x", "A=b,C="])
def test_secrets_named_wrongly(text: str) -> None:
    """EVENGRAD_SECRETS must pair variables with names; what follows the sign is not printed."""
    with pytest.raises(InputError, match="EVENGRAD_SECRETS: found"):
        pod_environment(spec(), "s3://b/p", "r1", {"EVENGRAD_SECRETS": text})


def test_env_file_that_is_not_one(tmp_path: Path) -> None:
    """A secret of several lines without quotes is refused by line number, and not printed."""
    path = tmp_path / "pod.env"
    path.write_text("A=1\nKEY=-----BEGIN\nMIIEsecretsecret\nabcSECRETdef=\n-----END\n")
    with pytest.raises(InputError) as caught:
        read_env_file(path)
    message = str(caught.value)
    assert "line 3" in message
    assert "line 4" in message
    assert "secret" not in message.lower().replace(str(tmp_path).lower(), "")


# --- the image ------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["me/it", "me/it:latest", "me/it@sha256:short", "a b@sha256:1"])
def test_images_must_be_pinned(image: str) -> None:
    """A tag may be moved, and hosts cache by it."""
    with pytest.raises(InputError, match="must be named by digest"):
        check_pinned(image)
    assert check_pinned(IMAGE) == IMAGE


def test_the_tag_names_the_content(tmp_path: Path) -> None:
    """Another spec, or other data, is another tag; a spec outside the checkout has none."""
    from job.spec.read import read_spec

    paths = [ROOT / "spec.json", ROOT / "docker" / "smoke.json", ROOT / "docker" / "failing.json"]
    tags = [content_tag("me/it", path, read_spec(path)) for path in paths]
    assert len(set(tags)) == 3
    assert tags[0] == content_tag("me/it", paths[0], read_spec(paths[0]))
    assert tags[0].startswith("me/it:jade-")
    outside = tmp_path / "spec.json"
    outside.write_text((ROOT / "spec.json").read_text())
    with pytest.raises(InputError, match="the build sees nothing else"):
        content_tag("me/it", outside, read_spec(ROOT / "spec.json"))


def test_an_endpoint_with_a_password_is_refused_and_not_echoed(tmp_path: Path) -> None:
    """What an env file says of the store is sent to RunPod and printed: it holds no password."""
    file = env_file(tmp_path, {"AWS_ENDPOINT_URL": "https://me:hunter2@s3.example.com"})
    with pytest.raises(InputError, match="a user or a password in the URL") as refused:
        pod_environment(spec(), "s3://b/p", "r1", {}, file)
    assert "hunter2" not in str(refused.value)
