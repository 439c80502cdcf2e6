"""The diagnosis finds planted faults and nothing in healthy twins, and its predictions hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jsonpatch
import numpy as np
import pytest
import torch

from job.data.dataset import load
from job.diagnose.case import Case, Finding
from job.diagnose.causes.learning_rate import leaps, too_low
from job.diagnose.diagnose import Diagnosis, diagnose
from job.diagnose.probe import probe, probe_inputs
from job.diagnose.reach import reach
from job.diagnose.show import print_findings
from job.show.console import Screen
from job.spec import JobSpec
from job.spec.patch import Edit, applied, patch
from job.spec.read import parse_spec, read_spec
from job.train.trainer import Trainer
from tests.support.command import ROOT, here, warm_job
from tests.support.planted_faults import FAULTS, Problem, planted
from tests.support.tiny_job import SMALL, Trained, write
from tests.support.tiny_job import job as small_job
from tests.support.warm_process import Nursery

QUICK = {"detached", "constant", "too_short"}
"""Faults that take a second or two."""

# --- faults and their twins ---------------------------------------------------------------------


def findings_of(problem: Problem, seed: int = 0) -> list[Finding]:
    return problem.diagnose(seed).findings


@cache
def diagnosed(fault: str) -> Diagnosis:
    """The diagnosis of random walks with a fault, for all tests that read it."""
    return planted("walks", fault).diagnose()


def is_found(findings: list[Finding], name: str) -> bool:
    """True if a fault is among the findings, with its mechanism, its task and the right reason."""
    fault = FAULTS[name]
    return any(
        f.mechanism == fault.mechanism
        and fault.task in (None, f.task)
        and fault.says in f.evidence + f.remedy
        for f in findings
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=[] if f in QUICK else pytest.mark.slow) for f in FAULTS]
)
def test_a_planted_fault_is_found(fault: str) -> None:
    """Each mechanism, planted in random walks, is named, with numbers and a remedy."""
    findings = diagnosed(fault).findings
    assert is_found(findings, fault), findings
    for finding in findings:
        assert any(c.isdigit() for c in finding.evidence)
        assert finding.remedy


@pytest.mark.parametrize("twin", ["healthy", pytest.param("uncertainty", marks=pytest.mark.slow)])
def test_a_healthy_twin_is_clean(twin: str) -> None:
    """Without a fault nothing is found."""
    assert findings_of(planted("walks", twin)) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["far_off", "too_short"])
def test_the_remedy_mends_it(fault: str) -> None:
    """After its edits, the diagnosis of a spec that can be mended finds that fault no more."""
    problem = planted("walks", fault)
    diagnosis = problem.diagnose()
    for task in diagnosis.before.names:
        assert diagnosis.after.skill(task) > 0.3
    problem.spec = applied(problem.spec, diagnosis.edits)
    again = findings_of(problem)
    assert FAULTS[fault].mechanism not in [finding.mechanism for finding in again]


# --- what it measures -----------------------------------------------------------------------------


@pytest.fixture
def training(tmp_path: Path) -> Trainer:
    write(tmp_path)
    return Trainer(*small_job(tmp_path))


def test_a_probe_is_the_run_itself(tmp_path: Path) -> None:
    """The probe's steps are, number for number, those of a run of the same spec."""
    write(tmp_path)
    spec, data = small_job(tmp_path)
    run = Trained(spec, data)
    run.run()
    probed = probe(Trainer(*probe_inputs(spec, data)))
    assert probed.is_whole_run
    untimed = [s.model_copy(update={"step_ms": 0.0}) for s in probed.steps]
    for mine, its in zip(untimed, run.steps, strict=True):
        tasks = {n: t.model_copy(update={"shared_grad_norm": None}) for n, t in its.tasks.items()}
        assert mine == its.model_copy(update={"step_ms": 0.0, "tasks": tasks})
    for name in spec.task_names:
        assert probed.end(name) == run.epochs[-1].tasks[name].train_loss_original
        mean = sum(
            e.tasks[name].cosines["level" if name != "level" else "kind"] for e in run.epochs
        )
        other = probed.cosines[name]["level" if name != "level" else "kind"]
        assert other == pytest.approx(mean / len(run.epochs), abs=1e-6)


def test_a_probe_follows_a_plateau(tmp_path: Path) -> None:
    """Where the rate waits for validation losses, it falls in a probe as it does in the run."""
    write(tmp_path)
    falling = {"train.schedule": {"kind": "plateau", "patience": 1}, "optimizer.lr": 1.0}
    spec, data = small_job(tmp_path, {**falling, "train.epochs": 6})
    run = Trained(spec, data)
    run.run()
    probed = probe(Trainer(*probe_inputs(spec, data)))
    rates = [step.lr for step in run.steps]
    assert [step.lr for step in probed.steps] == rates
    assert len(set(rates)) > 1


def test_weights_that_start_at_zero_make_no_leaps(training: Trainer) -> None:
    """Part of their size is nothing to measure a step by; the other weights' is."""
    found = probe(training)
    lr = found.spec.optimizer.lr
    assert leaps(replace(found, sizes={"trunk": 0.1, "heads": 0.0})) == lr / 0.1
    assert leaps(replace(found, sizes={"trunk": 0.0, "heads": 0.0})) == 0.0


def test_reach_is_what_adam_can_do(training: Trainer) -> None:
    """lr · steps · the 1-norm of the head's inputs, of their mean and around it."""
    reaches, model = reach(training), training.model
    model.eval()
    z = model.represent(training.data.train.inputs)
    assert isinstance(z, torch.Tensor)
    z = z.detach().flatten(0, 1)
    budget = training.spec.optimizer.lr * training.total_steps
    y = training.data.train.targets["down"]
    assert reaches["down"].level == pytest.approx(
        budget * (1 + z.mean(0).abs().sum().item()), rel=1e-5
    )
    around = (z - z.mean(0)).abs().sum(1).mean().item()
    assert reaches["down"].spread == pytest.approx(budget * around, rel=1e-5)
    assert reaches["down"].apart == pytest.approx(y.std(correction=0).item(), rel=1e-5)
    assert reaches["kind"].apart == 1.0


def test_no_output_travels_farther_than_its_reach() -> None:
    """While the trunk stays as it is, AdamW moves a step head's outputs no farther than the reach
    says, however far off the targets are."""
    problem = planted("walks", "frozen")
    problem.arrays["path"] = problem.arrays["path"] + 1e4
    problem.spec["tasks"][2] |= {"transform": {"kind": "none"}}
    problem.spec["model"] |= {"init": {"heads": "default"}, "dropout": {"input": 0.0, "heads": 0.0}}
    spec = parse_spec(json.dumps(problem.spec))
    training = problem.build(spec, problem.data(spec))
    before, bound = _mean_output(training), reach(training)["path"].level
    training.run(lambda event: None, lambda: None, lambda: False)
    moved = _mean_output(training) - before
    assert 0.5 * bound < moved < 1.02 * bound


def _mean_output(training: Trainer) -> float:
    model = training.model.eval()
    with torch.no_grad():
        return float(model(training.data.train.inputs)[2].mean())


@pytest.mark.slow
def test_first_order_predicts_small_steps() -> None:
    """At a small rate the change of a loss through the trunk is what its gradient predicts."""
    problem = planted("walks", "healthy")
    problem.spec["optimizer"] = {"lr": 1e-4}
    effects = problem.diagnose().before.effects
    for effect in effects.values():
        assert effect.measured == pytest.approx(effect.predicted, rel=0.2, abs=1e-4)
    assert any(abs(effect.measured) > 1e-4 for effect in effects.values())


def test_a_share_is_split_into_its_causes() -> None:
    """The factors of a starved task's evidence multiply to its pull beside the mean of all."""
    from job.diagnose.causes.starved import _factors

    problem = planted("walks", "starved")
    spec = parse_spec(json.dumps(problem.spec))
    before = probe(problem.build(*probe_inputs(spec, problem.data(spec))))
    for name in before.names:
        product = math.prod(_factors(before, name).values())
        pull = before.mean_of(name, "weight") * before.mean_of(name, "grad_norm")
        assert product == pytest.approx(pull)
    assert _factors(before, "path")["weight"] == 1e-5


def overflowing(balance: str) -> Problem:
    """A task whose loss is infinite at the first step, beside two that are sound."""
    problem = planted("walks", "healthy")
    problem.arrays["level"] = problem.arrays["level"] * 1e25
    problem.spec["balance"] = {"kind": balance}
    problem.spec["tasks"][1] |= {"loss": {"kind": "mse"}, "transform": {"kind": "none"}}
    return problem


@pytest.mark.parametrize(
    "balance", ["fixed", pytest.param("running_mean_sqrt_n", marks=pytest.mark.slow)]
)
def test_a_scale_that_overflows_is_named(balance: str) -> None:
    """The only finding scales the task, and the others learn."""
    (finding,) = findings_of(overflowing(balance))
    assert (finding.mechanism, finding.task) == ("target_scale", "level")
    assert [str(edit) for edit in finding.edits] == [
        '$.tasks[1].transform = {"kind": "standardize"}'
    ]
    assert {*finding.helped} == {"kind", "path"}


def test_what_is_not_finite_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no cause is found, the only finding names the step and the task."""
    monkeypatch.setattr("job.diagnose.diagnose.FOR_NOT_FINITE", ())
    (finding,) = findings_of(overflowing("fixed"))
    assert finding.mechanism == "not_finite"
    assert "step 1: the loss of task level is inf" in finding.evidence


class Clock:
    """A clock that moves on by some seconds whenever it is read."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def monotonic(self) -> float:
        self.now += self.seconds
        return self.now


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let every step of a diagnosis seem to take so many seconds."""
    clock = Clock(seconds)
    for module in ("diagnose", "probe", "case"):
        monkeypatch.setattr(f"job.diagnose.{module}.time", clock)


@pytest.mark.slow
def test_findings_do_not_depend_on_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that takes a second a step, probes have the same steps and findings the same
    numbers."""
    quick = diagnosed("constant")
    set_clock(monkeypatch, 3.0)
    slow = planted("walks", "constant").diagnose()
    assert slow.cut is None
    assert slow.before.evaluations[-1].step == quick.before.evaluations[-1].step == 160
    assert slow.findings == quick.findings != []


@pytest.mark.parametrize("seconds", [60.0, 1e5])
def test_a_diagnosis_has_an_end(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Past its last limit, within the first probe or before any step, it tries nothing more and
    reports that."""
    set_clock(monkeypatch, seconds)
    diagnosis = planted("walks", "far_off").diagnose()
    assert diagnosis.cut == "time"
    assert diagnosis.before.cut
    assert diagnosis.edits == []


@pytest.mark.slow
def test_an_edit_that_the_gates_forbid_is_none() -> None:
    """No remedy makes the spec invalid; its gates are checked with it."""
    problem = planted("walks", "by_heart")
    problem.spec["gates"] = [{"task": "level", "skill": -9.0, "by_epoch": 100}]
    diagnosis = problem.diagnose()
    assert all(edit.path != ("train", "epochs") for edit in diagnosis.edits)


# --- edits ----------------------------------------------------------------------------------------

RAW: dict[str, Any] = {"tasks": [{"name": "a"}, {"name": "b", "loss": {"delta": 1}}], "x/~": 1}


@pytest.mark.parametrize(
    ("edit", "operation"),
    [
        (Edit(("tasks", 1, "loss", "delta"), 2), ("replace", "/tasks/1/loss/delta", 2)),
        (Edit(("tasks", 0, "loss", "delta"), 2), ("add", "/tasks/0/loss", {"delta": 2})),
        (Edit(("model", "init", "lstm"), "o"), ("add", "/model", {"init": {"lstm": "o"}})),
        (Edit(("gates", -1), {"task": "a"}), ("add", "/gates", [{"task": "a"}])),
        (Edit(("tasks", -1), {"name": "c"}), ("add", "/tasks/-", {"name": "c"})),
        (Edit(("x/~",), 3), ("replace", "/x~1~0", 3)),
    ],
)
def test_an_edit_is_a_json_patch(edit: Edit, operation: tuple[str, str, Any]) -> None:
    """RFC 6902, as an independent implementation reads it: it gives what we write."""
    op, path, value = operation
    assert patch(RAW, [edit]) == [{"op": op, "path": path, "value": value}]
    assert jsonpatch.apply_patch(RAW, patch(RAW, [edit])) == applied(RAW, [edit])


def test_edits_one_after_the_other() -> None:
    """If two edits concern a missing section, the second edits what the first has added."""
    edits = [Edit(("model", "init", "lstm"), "orthogonal"), Edit(("model", "hidden"), 3)]
    made = patch(RAW, edits)
    assert [operation["path"] for operation in made] == ["/model", "/model/hidden"]
    assert jsonpatch.apply_patch(RAW, made) == applied(RAW, edits)
    assert "model" not in RAW


# --- the command ----------------------------------------------------------------------------------


def far_off(folder: Path) -> Path:
    """A spec with a task that cannot be reached, and its data."""
    path = write(folder, {"tasks": SMALL["tasks"][1:2], "train.epochs": 6})
    arrays = dict(np.load(folder / "small.npz"))
    np.savez(folder / "small.npz", **arrays | {"level": 900 + arrays["level"]})
    spec = json.loads(path.read_text())
    spec["tasks"][0]["transform"] = {"kind": "none"}
    spec["model"]["init"] = {"heads": "default"}
    spec["gates"] = [{"task": "level", "skill": -4.0, "by_epoch": 6}]
    path.write_text(json.dumps(spec))
    return path


@pytest.mark.slow
def test_the_command(tmp_path: Path, nursery: Nursery) -> None:
    """Findings as text, exit code 7; the fixed spec is written, valid, and passes its gate."""
    path, out = far_off(tmp_path / "in"), tmp_path / "fixed.json"
    ended = warm_job(nursery, tmp_path, "diagnose", str(path), "--fix", str(out), "--verify")
    assert ended.returncode == 7, ended.stderr
    assert "1. level · target scale" in ended.stdout
    assert "/tasks/0/transform" in ended.stdout
    assert "fixed: all gates passed in 1 of 1 runs" in ended.stdout
    assert "held" in ended.stdout
    assert warm_job(nursery, tmp_path, "validate", str(out)).returncode == 0
    assert read_spec(out).tasks[0].transform.kind == "standardize"


@pytest.mark.slow
def test_nothing_found(tmp_path: Path, nursery: Nursery) -> None:
    """Exit code 0, and no file is written."""
    path = write(
        tmp_path,
        {
            "tasks": SMALL["tasks"][1:3],
            "train.epochs": 80,
            "optimizer.lr": 0.01,
            "model.hidden": 32,
        },
    )
    ended = warm_job(nursery, tmp_path, "diagnose", str(path), "--fix", "out.json")
    assert (ended.returncode, "nothing found" in ended.stdout) == (0, True), ended.stdout
    assert not (tmp_path / "out.json").exists()


def test_no_file_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file at OUT.json stays as it is, and the error comes before any probe."""
    path, out = far_off(tmp_path), tmp_path / "mine.json"
    out.write_text("mine")
    code, _, err = here(capsys, "diagnose", path, "--fix", out)
    assert code == 2
    assert "never overwritten" in err
    assert out.read_text() == "mine"


# --- the report's spec and the shipped one --------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["docker/smoke.json", "docs/examples/census.json", "docs/examples/rows.json"]
)
def test_nothing_is_found_in_what_is_shipped(path: str) -> None:
    """No false finding in the small job, nor in the examples whose data is in the repository."""
    spec: JobSpec = read_spec(ROOT / path)
    assert diagnose(spec, load(spec, (ROOT / path).parent)).findings == []


def test_a_remedy_in_words_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """One whose edit costs other tasks has no patch that would say it."""
    remedy = "set $.optimizer.lr = 0.01, if what other tasks lose is worth it: b 9% → 2% ± 1%"
    print_findings(Screen(), [Finding("learning_rate", "a", "seen", remedy)], {})
    assert "if what other tasks lose" in " ".join(capsys.readouterr().out.split())


def test_findings_with_one_cause_and_edit_are_printed_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first is whole, the others name it; one with an edit of its own is whole again."""

    def starved(task: str, weight: int) -> Finding:
        edits = (Edit(("balance", "weights", "a"), weight),)
        return Finding("starved", task, f"{task} has no share", "set a weight", edits, f"{task} up")

    findings = [starved("a", 1), starved("b", 1), starved("c", 1), starved("d", 2)]
    print_findings(Screen(), findings, {"balance": {"weights": {"a": 0}}})
    text = " ".join(capsys.readouterr().out.split())
    assert [f"{name} has no share" in text for name in "abcd"] == [True, False, False, True]
    assert text.count("measured as in a") == 2
    assert all(f"{name} up" in text for name in "abcd")
    assert text.count('"value": 1') == text.count('"value": 2') == 1


@pytest.mark.parametrize(("planned", "named"), [(240, True), (824, False)])
def test_a_higher_rate_that_costs_another_task(planned: int, named: bool) -> None:
    """It is told of a run that is as long as the probe. A longer one may learn both tasks at its
    own rate, as spec.json does: its `countdown` has a skill of 3 % after the probe, and of 31 % at
    the end.
    """
    far = SimpleNamespace(
        spec=parse_spec(json.dumps(SMALL)),
        planned=planned,
        evaluations=[SimpleNamespace(step=240)],
        knows=lambda *_: True,
        rise=lambda *_: None,
    )
    case = SimpleNamespace(
        now=far,
        weak=lambda: ["down"],
        helpful_edits=lambda rates, _: [(edits, far) for edits in rates],
        best_of=lambda helpful, _, at_any_cost=False: helpful[0] if at_any_cost else None,
        helped=lambda *_: ("down",),
        offer=lambda finding, _: finding,
    )
    assert [f.mechanism for f in too_low(cast("Case", case))] == ["learning_rate"] * named
