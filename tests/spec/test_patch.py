"""A spec's text for another folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

from job.spec.patch import moved
from tests.support.tiny_job import edited


def test_a_moved_spec_names_the_same_files(tmp_path: Path) -> None:
    """Data, further splits, weights and the schema; what is absolute or in S3 stays."""
    content = edited(
        {
            "$schema": "../spec.schema.json",
            "data.validation": {"path": "more/held.npz"},
            "data.test": {"path": "s3://bucket/test.npz"},
            "model.weights": {"path": str(tmp_path / "w.safetensors"), "sha256": "0" * 64},
        }
    )
    out = tmp_path / "there" / "deep" / "new.json"
    made = json.loads(moved(content, tmp_path / "here" / "spec.json", out))
    folder = os.path.normpath(out.parent / made["data"]["path"])
    assert folder == str(tmp_path / "here" / "small.npz")
    assert made["data"]["validation"] == {"path": "../../here/more/held.npz"}
    assert made["data"]["test"] == content["data"]["test"]
    assert made["model"]["weights"] == content["model"]["weights"]
    assert made["$schema"] == "../../spec.schema.json"
    assert made["tasks"] == content["tasks"]
