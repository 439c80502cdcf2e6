"""Opening a store: what is refused before anything is sent, and no message holds a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.errors import InputError
from job.store import Missing, open_store, read_object
from tests.support.http_stub import Reply, answering
from tests.support.stores import child, keys, whole_text

# --- the URL ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "gs://bucket/run",
        "s3://",
        "s3:///run",
        "s3:/bucket/run",
        "s3://AKIAX:hidden@bucket/run",
        "s3://bucket/run?X-Amz-Security-Token=hidden",
        "https://me:hidden@s3.example/bucket",
        "https://bucket.s3.example/run?X-Amz-Signature=hidden",
        "s3://bucket/run\n",
        "s3://buck et/run",
        's3://"bucket"/run',
    ],
)
def test_wrong_url(url: str) -> None:
    """What is neither a directory nor s3://bucket/prefix is refused, without any secret in it."""
    with pytest.raises(InputError, match="a store is s3://bucket/prefix or a directory") as caught:
        open_store(url)
    assert "hidden" not in whole_text(caught)
    assert str(caught.value).count("\n") == 0


def test_bucket_without_prefix(s3_url: str) -> None:
    """A store may be a whole bucket: keys are then the server's own."""
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    open_store(s3_url + "/").put("a", b"x")
    assert keys(open_store(f"s3://{bucket}"), prefix) == [f"{prefix}/a"]


def test_directory_needs_no_boto3(tmp_path: Path) -> None:
    """A store in a directory is opened and written without boto3 being imported."""
    code = """
        import sys
        from job.store import open_store
        open_store(sys.argv[1]).put("a", b"x")
        print("boto3" in sys.modules or "botocore" in sys.modules)
    """
    assert child(code, str(tmp_path)).communicate()[0] == "False\n"


def test_single_object(s3_url: str) -> None:
    """An object is read by its own URL; one that does not exist is Missing."""
    open_store(s3_url).put("folder/läufe #1@home.npz", b"x")
    assert read_object(f"{s3_url}/folder/läufe #1@home.npz", "$.data.path") == b"x"
    with pytest.raises(Missing):
        read_object(f"{s3_url}/b.npz", "$.data.path")


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/", "s3://bucket/a//b", "s3://bucket/a?token=hidden"]
)
def test_wrong_object(s3_url: str, url: str) -> None:
    """A URL that names no object is refused where it is written, without any secret in it."""
    with pytest.raises(InputError, match=r"^\$\.data\.path: found .*s3://bucket/key") as caught:
        read_object(url, "$.data.path")
    assert "hidden" not in whole_text(caught)


# --- the endpoint -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "found"),
    [
        ("localhost:9000", "localhost:9000"),
        ("user:hidden@localhost", "…@localhost"),
        ("http://user:hidden@127.0.0.1:9000", "a user or a password in the URL"),
        ("https://s3.example/?token=hidden", "a query or a fragment in the URL"),
        ("https://s3.example#hidden", "a query or a fragment in the URL"),
        ("https://s3.example/tests", "the bucket tests in it"),
        ("https://s3.example/tests/runs", "the bucket tests in it"),
        ("https://tests.s3.eu-central-1.amazonaws.com", "the bucket tests in it"),
        ("https://tests.account.r2.cloudflarestorage.com", "the bucket tests in it"),
        ("https://tests.fra1.digitaloceanspaces.com", "the bucket tests in it"),
        ("https://minio.example:9001/login", "a path, /login"),
        ("https://s3.example\n", "a newline"),
        ('"https://s3.example"', "quotes"),
        ("https://s3.example ", "a blank"),
    ],
)
def test_wrong_endpoint(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, endpoint: str, found: str
) -> None:
    """An endpoint that cannot be one is named before anything is sent, without any secret."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(InputError, match="AWS_") as caught:
        open_store(s3_url)
    assert f"found {found}" in str(caught.value).replace("Invalid endpoint: ", "")
    assert "hidden" not in whole_text(caught)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://s3.example",
        "https://s3.example/",
        "https://tests.example:9000",  # a host may have the bucket's name
        "https://project.supabase.example/storage/v1/s3",
    ],
)
def test_endpoints(s3_url: str, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """A server is accepted by its host, and below the path that a gateway serves S3 under."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert open_store(s3_url).url == s3_url


def test_endpoint_of_a_profile(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint from the configuration file is checked as well, and named as that."""
    config = tmp_path / "config"
    config.write_text("[default]\nendpoint_url = https://me:hidden@s3.example\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(InputError, match="configuration file's endpoint_url") as caught:
        open_store(s3_url)
    assert "hidden" not in whole_text(caught)


# --- the credentials --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"]
)
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("hidden\n", "a newline"),
        ("hidden\r", "a newline"),
        (" hidden", "a blank"),
        ('"hidden"', "quotes"),
        ("'hidden'", "quotes"),
        ("hïdden", "characters other than ASCII's"),
        ("{{ RUNPOD_SECRET_hidden }}", "a reference"),
    ],
)
def test_malformed_value(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, found: str
) -> None:
    """A key with a newline, blanks or quotes is named before anything is sent, and not repeated."""
    with answering(Reply(200)) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.url)
        monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=f"{name}: found {found}") as caught:
            open_store(s3_url)
        assert stub.requests == []
    assert "dden" not in whole_text(caught)


def test_unknown_profile(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that does not exist is one line."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match="nobody") as caught:
        open_store(s3_url)
    assert str(caught.value).count("\n") == 0
