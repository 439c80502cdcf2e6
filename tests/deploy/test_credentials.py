"""Where the account's API key is found, and the error if it is nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.app import client
from deploy.exits import NO_ACCESS, CommandError
from deploy.runpod.credentials import account_key, stored_key
from tests.support.command import environment

SDK = """
from runpod.cli.groups.config.functions import get_credentials, set_credentials
set_credentials("rpa_of_the_default")
set_credentials("rpa_of_work", profile="work")
assert get_credentials("work") == {"api_key": "rpa_of_work"}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RunPod's own file in a home of this test alone; it is not there yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".runpod").mkdir()
    return tmp_path / ".runpod" / "config.toml"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[default]\napi_key = "k1"\n', "k1"),
        ('[default]\napi_key = "k1"\n\n[work]\napi_key = "k2"\n', "k1"),
        ('[work]\napi_key = "k2"\n', "k2"),
        ("apikey = 'k3'\napiurl = 'https://api.runpod.io/graphql'\n", "k3"),
        ('apiKey = "k3"\n', "k3"),
        ('apikey = "k3"\n[default]\napi_key = "k1"\n', "k1"),
        ('apikey = "k3"\n[work]\napi_key = "k2"\n', "k3"),
        ('[default]\napi_key = ""\n[work]\nregion = "EU"\n', None),
        ("", None),
    ],
)
def test_every_form_of_the_file(config: Path, text: str, key: str | None) -> None:
    """The SDK's profiles, `default` first or the only one, and runpodctl's key at the top."""
    config.write_text(text)
    assert stored_key() == key


def test_the_file_that_the_sdk_writes(config: Path) -> None:
    """The installed SDK stores two profiles; the default one is read."""
    home = environment(HOME=str(config.parents[1]))
    subprocess.run([sys.executable, "-c", SDK], env=home, check=True, timeout=600)
    assert stored_key() == "rpa_of_the_default"


def test_no_file(config: Path) -> None:
    """No file is no key, not an error; nor is a home that is no folder."""
    assert stored_key() is None
    config.parent.rmdir()
    config.parent.write_text("")
    assert stored_key() is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'[default]\napi_key = "rpa_secret', "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        (
            b'[a]\napi_key = "rpa_secret"\n[b]\napi_key = "rpa_b"\n',
            "keys for a, b and none for def",
        ),
    ],
    ids=["broken", "bytes", "two profiles"],
)
def test_files_without_one_key(config: Path, text: bytes, why: str) -> None:
    """One line that names the file and a way out, and no part of a key."""
    config.write_bytes(text)
    with pytest.raises(CommandError, match=why) as caught:
        account_key(None, {})
    assert caught.value.code == NO_ACCESS
    assert len(str(caught.value).splitlines()) == 1
    assert "RUNPOD_API_KEY" in str(caught.value)
    assert "rpa_" not in str(caught.value)


def test_the_order_of_the_places(config: Path) -> None:
    """A given key, then the variable, then the file; a broken file does not matter before."""
    config.write_text("broken =")
    assert account_key("given", {"RUNPOD_API_KEY": "env"}) == "given"
    assert account_key(None, {"RUNPOD_API_KEY": " env\n"}) == "env"
    config.write_text('apikey = "file"')
    assert account_key(None, {}) == "file"
    config.unlink()
    with pytest.raises(CommandError, match=r"--api-key-file, the variable RUNPOD_API_KEY, and ~/"):
        account_key(None, {})


def test_an_empty_key_file(tmp_path: Path) -> None:
    """A key file with nothing in it is an error: no other key is taken in its place."""
    empty = tmp_path / "key"
    empty.write_text("\n")
    with pytest.raises(CommandError, match="found nothing in it"):
        client(str(empty))
