"""Gates: what each kind measures, where its bounds are, and when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import TypeAdapter

from job.events import Epoch, EpochTask
from job.events.gates import Verdict, judge, words
from job.spec import Gate

GATE: TypeAdapter[Gate] = TypeAdapter(Gate)


def gate(**fields: Any) -> Gate:
    return GATE.validate_python(fields)


def epoch(number: int = 5, **tasks: Mapping[str, Any]) -> Epoch:
    """An epoch whose tasks have what is given, and 0 elsewhere."""
    zeros: dict[str, Any] = dict.fromkeys(EpochTask.model_fields, 0.0)
    zeros |= {"cosines": {}, "metrics": {}, "val_metrics": {}}
    made = {name: EpochTask.model_validate(zeros | dict(values)) for name, values in tasks.items()}
    return Epoch(epoch=number, step=1, tasks=made, seconds=1.0, samples_per_second=1.0)


DROP = gate(task="a", drop=0.2, by_epoch=5)
SKILL = gate(task="a", skill=0.0, by_epoch=5, split="validation")
RATIO = gate(ratio=("a", "b"), between=(0.5, 2.0))


@pytest.mark.parametrize("name", ["drop", "skill"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_drop_and_skill_must_be_exceeded(name: str, split: str) -> None:
    """A drop or skill passes above its bound and fails at it, on the split that it names."""
    asked = gate(task="a", by_epoch=5, split=split, **{name: 0.25})
    fields = [name, *(["skill_low"] if name == "skill" else [])]
    prefix = "" if split == "train" else "val_"
    other = {f"{each}{field}": 1.0 for each in ("", "val_") for field in fields}
    for value, passed in [(0.25, False), (0.2500001, True), (0.1, False), (-3.0, False)]:
        mine = {f"{prefix}{field}": value for field in fields}
        result = judge(asked, epoch(a=mine, b=other))
        assert result.passed is passed
        assert result.measured == value
        assert result.epoch == 5


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_skill_within_its_error_fails(split: str) -> None:
    """A skill of noise, 0.47 ± 0.4, passes no gate > 0; it is told where its interval begins. The
    gate passes with a sure skill, or where the spec ignores the error."""
    prefix = "" if split == "train" else "val_"
    noise = {f"{prefix}skill": 0.47, f"{prefix}skill_error": 0.4, f"{prefix}skill_low": -0.31}
    asked = gate(task="a", skill=0.0, by_epoch=5, split=split)
    result = judge(asked, epoch(a=noise))
    assert (result.passed, result.measured, result.error) == (False, 0.47, 0.4)
    assert result.why == "its 95% interval begins at -31.0%"
    sure = judge(asked, epoch(a=noise | {f"{prefix}skill_low": 0.01}))
    assert (sure.passed, sure.measured, sure.error, sure.why) == (True, 0.47, 0.4, None)
    below = judge(asked, epoch(a=noise | {f"{prefix}skill": -0.1}))
    assert (below.passed, below.measured, below.why) == (False, -0.1, None)
    ignoring = gate(task="a", skill=0.0, by_epoch=5, split=split, beyond_error=False)
    result = judge(ignoring, epoch(a=noise))
    assert (result.passed, result.measured, result.why) == (True, 0.47, None)


def test_a_skill_gate_is_strict_unless_stated() -> None:
    """It reads the validation split, and the lower end of the interval."""
    asked = gate(task="a", skill=0.0, by_epoch=5)
    assert words(asked) == "a skill > 0% by epoch 5 (validation)"
    good = {"skill": 0.9, "skill_low": 0.8, "val_skill": 0.9, "val_skill_low": -0.1}
    assert not judge(asked, epoch(a=good)).passed
    assert judge(asked, epoch(a=good | {"val_skill_low": 0.1, "skill_low": -0.1})).passed


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("beyond_error", [True, False])
def test_a_split_that_cannot_tell_fails(split: str, beyond_error: bool) -> None:
    """A task without a skill fails its gate, which says why; other splits and tasks pass."""
    prefix = "" if split == "train" else "val_"
    other = {f"{each}skill{end}": 0.5 for each in ("", "val_") for end in ("", "_low")}
    untold = dict.fromkeys(f"{prefix}skill{end}" for end in ("", "_error", "_low"))
    at = epoch(a=other | untold, b=other)
    why = {split: {"a": "it has 3 of the 8 samples that are needed"}}
    for each in ("train", "validation"):
        for task in "ab":
            asked = gate(task=task, skill=0.0, by_epoch=5, split=each, beyond_error=beyond_error)
            (result,) = Verdict([asked], 8, why).read(at, last=False)
            assert result.passed is ((task, each) != ("a", split))
            if not result.passed:
                assert result.measured is None
                assert result.why == (
                    f"the {split} split cannot tell: it has 3 of the 8 samples that are needed"
                )


def test_a_drop_is_told_beside_the_trivial_one() -> None:
    """What of a drop a trivial prediction would show, on the gate's split."""
    at = epoch(a={"drop": 0.3, "drop_trivial": 0.28, "val_drop": 0.1, "val_drop_trivial": 0.15})
    for split, measured, trivial in (("train", 0.3, 0.28), ("validation", 0.1, 0.15)):
        result = judge(gate(task="a", drop=0.2, by_epoch=5, split=split), at)
        assert (result.measured, result.trivial, result.error) == (measured, trivial, None)


@pytest.mark.parametrize(("at", "field"), [("z", "pull"), ("head", "head_pull")])
def test_a_ratio_may_lie_on_its_bounds(at: str, field: str) -> None:
    """A ratio passes within its bounds, both included, at z or at the head."""
    asked = gate(ratio=("a", "b"), between=(0.5, 2.0), at=at)
    for value, passed in [(1.0, True), (0.5, True), (2.0, True), (0.49, False), (2.01, False)]:
        result = judge(asked, epoch(a={field: 3 * value}, b={field: 3.0}))
        assert result.passed is passed
        assert result.measured == pytest.approx(value)


def test_a_ratio_to_nothing_fails() -> None:
    """Where the denominator has no gradient the ratio is infinite and fails; 0 to 0 fails too."""
    assert judge(RATIO, epoch(a={"pull": 1.0}, b={})).measured == math.inf
    assert not judge(RATIO, epoch(a={"pull": 1.0}, b={})).passed
    assert not judge(RATIO, epoch(a={}, b={})).passed
    assert not judge(RATIO, epoch(a={}, b={"pull": 1.0})).passed


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_metric_lies_between_its_bounds(split: str) -> None:
    """Above the one and below the other, either left out, both excluded, on the gate's split."""
    field = "metrics" if split == "train" else "val_metrics"
    for bounds, passing, failing in [
        ({"above": 0.5}, [0.51, 9.0], [0.5, -1.0]),
        ({"below": 0.5}, [0.49, -9.0], [0.5, 1.0]),
        ({"above": 0.5, "below": 0.7}, [0.6], [0.5, 0.7, 0.4, 0.8]),
    ]:
        asked = gate(task="a", metric="mae", by_epoch=5, split=split, **bounds)
        for value in passing + failing:
            result = judge(asked, epoch(a={field: {"mae": value, "r2": 0.6}}, b={}))
            assert (result.passed, result.measured) == (value in passing, value)
            assert result.unit == "metric"


def test_a_metric_without_a_value_fails_and_says_why() -> None:
    """What the metric needs; or that the loss is not finite, if that is why."""
    asked = gate(task="a", metric="auroc", above=0.8, by_epoch=5)
    without: dict[str, Any] = {"val_metrics": {"auroc": None}}
    result = judge(asked, epoch(a=without))
    assert (result.passed, result.measured) == (False, None)
    assert result.why == "auroc needs both ones and zeros, and finite predictions"
    result = judge(asked, epoch(a=without | {"val_loss_original": math.nan}))
    assert result.why == "the loss of a on the validation split is nan"


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_not_a_number_fails(value: float) -> None:
    """A measurement that is NaN, or infinitely bad, passes no gate of any kind."""
    for asked in (DROP, SKILL, RATIO):
        broken = dict.fromkeys(("drop", "val_skill", "pull"), value)
        result = judge(asked, epoch(a=broken, b={"pull": 1.0}))
        assert result.passed is False
        assert str(result.measured) == str(value)


def test_each_gate_is_read_at_its_epoch_once() -> None:
    """A gate is read at its own epoch, or at the last where it names none, and not again."""
    later = gate(task="a", drop=0.5, by_epoch=7)
    verdict = Verdict([DROP, later, RATIO], epochs=8)
    good: dict[str, dict[str, float]] = {"a": {"drop": 0.9, "pull": 1.0}, "b": {"pull": 1.0}}
    bad: dict[str, dict[str, float]] = {"a": {}, "b": {}}
    read = {
        number: verdict.read(epoch(number, **(good if number == 5 else bad)), last=number == 8)
        for number in range(1, 9)
    }
    found = {n: [(r.gate, r.passed) for r in results] for n, results in read.items() if results}
    assert found == {
        5: [(words(DROP), True)],
        7: [(words(later), False)],
        8: [(words(RATIO), False)],
    }
    assert [r.passed for r in verdict.final(8)] == [True, False, False]
    assert [r.epoch for r in verdict.final(8)] == [5, 7, 8]


def test_an_early_stop_reads_what_is_open() -> None:
    """A run that stops early reads its open gates at its last epoch."""
    later = gate(task="a", drop=0.5, by_epoch=7)
    verdict = Verdict([DROP, later], epochs=8)
    assert verdict.read(epoch(4, a={"drop": 0.3}), last=False) == []
    results = verdict.read(epoch(5, a={"drop": 0.3}), last=True)
    assert [(r.passed, r.measured, r.epoch) for r in results] == [(True, 0.3, 5), (False, 0.3, 5)]
    assert verdict.final(5) == results


def test_a_gate_not_reached_has_failed() -> None:
    """In a run that ended before a gate's epoch, it has failed with nothing measured."""
    verdict = Verdict([DROP, RATIO], epochs=8)
    verdict.read(epoch(5, a={"drop": 0.3}), last=False)
    reached, unreached = verdict.final(6)
    assert reached.passed
    assert (unreached.gate, unreached.passed) == (words(RATIO), False)
    assert (unreached.measured, unreached.epoch) == (None, 6)


def test_a_verdict_goes_on_from_its_results() -> None:
    """`results` are all that a resume needs: a gate read before is not read again."""
    first, second = Verdict([DROP], epochs=8), Verdict([DROP], epochs=8)
    first.read(epoch(5, a={"drop": 0.9}), last=False)
    second.results = dict(first.results)
    assert second.read(epoch(8, a={}), last=True) == []
    assert second.final(8) == first.final(8)


def test_gates_in_words() -> None:
    """Each kind of gate as a person would say it."""
    assert words(DROP) == "a drops > 20% by epoch 5 (train)"
    assert words(SKILL) == "a skill > 0% by epoch 5 (validation)"
    told = words(gate(task="a", skill=0.1, by_epoch=5, split="train", beyond_error=False))
    assert told == "a skill > 10% by epoch 5 (train, its error ignored)"
    assert words(RATIO) == "gradient of a / b at z within 0.5-2 at the last epoch"
    told = words(gate(ratio=("a", "b"), between=(0.5, 2.0), at="head", by_epoch=3))
    assert told == "gradient of a / b at head within 0.5-2 at epoch 3"
