"""Parts that do not train, and parts that begin with another run's tensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from job.diagnose.causes import blocked_path, travel_budget
from job.diagnose.diagnose import diagnose
from job.errors import InputError
from job.model.start.frozen import freeze, keep_still
from job.spec.read import parse_spec
from tests.support.command import here
from tests.support.tiny_job import SMALL, State, Trained, edited, job, saved_weights, weights, write


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        ({"model.freeze": ["trunk.nothing.*"]}, "$.model.freeze: found"),
        ({"model.freeze": ["*"]}, "$.model.freeze"),
        ({"optimizer.rates": {"nothing.*": 0.1}}, "$.optimizer.rates"),
    ],
)
def test_validate_refuses_what_a_run_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], edits: dict[str, object], line: str
) -> None:
    """What fits no parameter is seen before anything is baked or rented."""
    write(tmp_path, edits)
    code, _, err = here(capsys, "validate", str(tmp_path / "spec.json"))
    assert code == 2
    assert err.startswith(line)
    assert err.count("\n") == 1


class TestFreeze:
    def test_a_frozen_part_stays(self, tmp_path: Path) -> None:
        """Frozen parameters keep their values, the others move; the optimizer holds these alone."""
        write(tmp_path)
        run = Trained(*job(tmp_path, {"model.freeze": ["trunk.*"], "train.epochs": 1}))
        before = weights(run.training)
        assert run.run()
        for name, now in weights(run.training).items():
            assert torch.equal(now, before[name]) == name.startswith("trunk."), name
        held = [p for group in run.training.optimizer.param_groups for p in group["params"]]
        assert len(held) == sum(not name.startswith("trunk.") for name in before)

    def test_the_ledger_of_the_rest_is_autograds(self, tmp_path: Path) -> None:
        """With half of the trunk frozen, what trains gets the gradients of the weighted sum."""
        write(tmp_path)
        edits = {
            "model": {"hidden": 4, "projection": 4, "dropout": {"input": 0.0, "heads": 0.0}},
            "model.freeze": ["*_reverse", "*weight_hh*"],
        }
        training = Trained(*job(tmp_path, edits)).training
        (batch,) = next(training._rest_of_epoch())
        training.stepper(batch.inputs, batch.targets, training.optimizer)
        named = training.model.named_parameters()
        mine = {n: p.grad.clone() for n, p in named if p.grad is not None}
        assert 0 < len(mine) < len(weights(training))
        training = Trained(*job(tmp_path, edits)).training
        outputs = training.model(batch.inputs)
        rows = zip(training.losses, outputs, batch.targets, strict=True)
        sum(loss(output, y)[0] for loss, output, y in rows).backward()
        for name, p in training.model.named_parameters():
            assert (p.grad is None) == (name not in mine)
            if p.grad is not None:
                torch.testing.assert_close(mine[name], p.grad, rtol=1e-4, atol=1e-6)

    def test_what_is_frozen_as_a_whole_is_in_evaluation_mode(self) -> None:
        """Its dropout is off, and the statistics of its BatchNorm stay, whatever `train` says."""

        def block() -> nn.Module:
            return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))

        model = nn.ModuleDict({"still": block(), "live": block()})
        freeze(model, ["still.*"])
        model.train()
        keep_still(model)
        assert not any(module.training for module in model["still"].modules())
        assert all(module.training for module in model["live"].modules())

    def test_evaluation_does_not_wake_it(self, tmp_path: Path) -> None:
        """After epochs of training and evaluation the trunk is still in evaluation mode."""
        write(tmp_path)
        run = Trained(*job(tmp_path, {"model.freeze": ["trunk.*"], "train.epochs": 2}))
        run.run(stop_at=7)
        model = run.training.model
        assert model.training
        assert not any(m.training for m in model.trunk.modules() if not isinstance(m, nn.RNNBase))

    def test_a_pattern_without_a_match(self, tmp_path: Path) -> None:
        """The fault names the pattern and names near it."""
        write(tmp_path)
        with pytest.raises(InputError, match=r'\$.model.freeze: found "trunk.lstm".*near it are'):
            Trained(*job(tmp_path, {"model.freeze": ["trunk.lstm"]}))

    def test_something_must_train(self, tmp_path: Path) -> None:
        """To freeze all is a fault."""
        write(tmp_path)
        with pytest.raises(InputError, match="no parameter of the network is left that trains"):
            Trained(*job(tmp_path, {"model.freeze": ["*"]}))


class TestPretrained:
    def test_a_run_begins_with_the_trunk_of_another(self, tmp_path: Path) -> None:
        """Its trunk is the file's; its heads and the scaling of its inputs are its own."""
        write(tmp_path)
        donor = Trained(*job(tmp_path, {"seed": 5}))
        donor.run(stop_at=3)
        section = saved_weights(donor.training, tmp_path / "trunk.safetensors")
        run = Trained(*job(tmp_path, {"model.weights": section}))
        theirs, fresh = weights(donor.training), weights(Trained(*job(tmp_path)).training)
        for name, tensor in weights(run.training).items():
            source = theirs if name.startswith("trunk.") else fresh
            assert torch.equal(tensor, source[name]), name
        assert set(run.training.pretrained) == {n for n in theirs if n.startswith("trunk.")}

    def test_a_resume_keeps_its_state(self, tmp_path: Path) -> None:
        """A resumed run goes on from its checkpoint, not from the file."""
        write(tmp_path)
        section = saved_weights(
            Trained(*job(tmp_path, {"seed": 5})).training, tmp_path / "t.safetensors"
        )
        run = Trained(*job(tmp_path, {"model.weights": section}))
        run.run(stop_at=3)
        again = Trained(*job(tmp_path, {"model.weights": section}))
        State(run.training).into(again.training)
        for name, tensor in weights(again.training).items():
            assert torch.equal(tensor, weights(run.training)[name])

    @pytest.mark.parametrize(
        ("parts", "change", "fault"),
        [
            (["trunk.*"], "shape", r"found trunk.encoder.lstm.bias_hh_l0 of shape \[3\]"),
            (["trunk.*"], "gone", "found no tensor trunk.encoder.lstm.bias_hh_l0"),
            (["trunk.lstm.*"], "", r'weights.parts: found "trunk.lstm.\*"'),
            (["trunk.*"], "hash", "SHA-256"),
            (["trunk.*"], "format", "must be a valid safetensors file"),
        ],
    )
    def test_faults(self, tmp_path: Path, parts: list[str], change: str, fault: str) -> None:
        """What does not fit is one line for each layer, before anything is copied."""
        write(tmp_path)
        donor, path = Trained(*job(tmp_path)).training, tmp_path / "t.safetensors"
        name = "model.trunk.encoder.lstm.bias_hh_l0"
        section = saved_weights(
            donor, path, **({name: torch.zeros(3)} if change == "shape" else {})
        )
        if change == "gone":
            kept = safetensors.torch.load_file(path)
            del kept[name]
            safetensors.torch.save_file(kept, path)
        if change == "format":
            path.write_bytes(b"PK\x03\x04 something else")
        if change in ("gone", "format"):
            section["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        if change == "hash":
            section["sha256"] = "0" * 64
        with pytest.raises(InputError, match=fault) as caught:
            Trained(*job(tmp_path, {"model.weights": section | {"parts": parts}}))
        assert len(caught.value.faults) == 1

    def test_the_file_enters_the_image(self) -> None:
        """It is among the files that a spec names, unless it lies in S3."""
        section = {"path": "trunk.safetensors", "sha256": "0" * 64}
        spec = parse_spec(json.dumps(edited({"model.weights": section})))
        assert spec.files == {
            "$.data.path": SMALL["data"]["path"],
            "$.model.weights.path": "trunk.safetensors",
        }


def test_diagnosis_takes_what_the_spec_freezes_as_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No finding calls a frozen trunk, or SGD without a bound, a fault."""
    causes = (blocked_path.findings, travel_budget.findings)
    monkeypatch.setattr("job.diagnose.diagnose.CAUSES", causes)  # the others take long
    write(tmp_path)
    edits = {"model.freeze": ["trunk.*"], "optimizer": {"kind": "sgd", "lr": 0.01}}
    spec, data = job(tmp_path, edits)
    found = diagnose(spec, data)
    assert not {finding.mechanism for finding in found.findings} & {"blocked_path", "travel_budget"}
