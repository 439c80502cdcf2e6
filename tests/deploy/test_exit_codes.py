"""Commands end with codes that their help and the documentation name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.exits import NO_ACCESS, NOT_FINISHED, code_of_reason
from deploy.runs.state import CODE_OF_PHASE
from tests.support.http_stub import Reply, answering, error_document
from tests.support.readme import deploy_exit_codes
from tests.support.warm_process import Nursery


@pytest.mark.parametrize("command", ["status", "logs", "fetch", "report", "diff", "cancel"])
def test_a_store_that_refuses(tmp_path: Path, nursery: Nursery, command: str) -> None:
    """Without rights in the store each command ends with the code that its help names."""
    more = {"diff": ("x/r",), "cancel": ("--yes",)}.get(command, ())
    with answering(Reply(403, error_document("AccessDenied"))) as server:
        refused = nursery.start(
            *("x/r", *more, "--store", "s3://bucket"),
            program=f"deploy.{command}",
            environment={
                **{name: value for name, value in os.environ.items() if name[:4] != "AWS_"},
                **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "x"),
                **{"AWS_ENDPOINT_URL": server.url, "EVENGRAD_STATE": str(tmp_path)},
            },
        )
        assert refused.wait() == NO_ACCESS, refused.err
    assert NO_ACCESS in deploy_exit_codes()[command]


def test_every_end_of_status_is_documented() -> None:
    """The codes of a run that stands or goes on, and of one that any trainer has ended."""
    ends = {NOT_FINISHED, *CODE_OF_PHASE.values(), *map(code_of_reason, ("succeeded", "oom"))}
    assert ends <= set(deploy_exit_codes()["status"])
