"""The loop: order, early stop, epoch events, and a state from which a run continues exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from job.data.dataset import Dataset, Split, load
from job.errors import InputError
from job.events import Alarm, Epoch, Step
from job.model.metrics import measure, summarize
from job.model.skill import measure_skill
from job.spec.read import parse_spec
from job.train.evaluate import batches, evaluate, evenly_spaced
from job.train.gradients.elements import Part
from job.train.ledger import NotFinite
from job.train.step import Measured
from job.train.trainer import Trainer
from tests.support.own_networks import FORWARD, place
from tests.support.tiny_job import (
    DEAD,
    HUGE,
    HUGE_SAMPLE,
    RISING,
    SMALL,
    STEPS,
    TRAIN,
    VALIDATION,
    State,
    Trained,
    job,
    weights,
    write,
)

CPU = torch.device("cpu")
BALANCERS: dict[str, dict[str, Any]] = {
    "fixed": {"kind": "fixed", "weights": {"down": 2.0}},
    "running_mean": {"kind": "running_mean", "warmup": 3},
    "uncertainty": {"kind": "uncertainty", "lr": 0.1},
    "gradient_norm": {"kind": "gradient_norm"},
    "UPGrad": {"kind": "torchjd", "method": "UPGrad"},
}
RICH: dict[str, Any] = {
    "train.epochs": 8,
    "train.schedule": "one_cycle",
    "train.clip": 0.5,
    "train.early_stop": {"task": "*", "patience": 2},
    "optimizer.lr": 0.3,
    "checkpoint.every_steps": 1,
    "gates": [
        {"task": "down", "drop": 0.0, "by_epoch": 2},
        {"ratio": ["down", "pair"], "between": [0.1, 9]},
    ],
}
"""Everything on that has a state, and a rate that soon stops early."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data is."""
    return write(tmp_path_factory.mktemp("small")).parent


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in ("fixed", "uncertainty") else [])
        for name in BALANCERS
    ],
)
def undisturbed(request: pytest.FixtureRequest, folder: Path) -> Trained:
    """A rich run to its end, saved at every step."""
    trained = Trained(*job(folder, RICH | {"balance": BALANCERS[request.param]}))
    assert trained.run()
    return trained


@pytest.fixture(scope="module")
def trained(folder: Path) -> Trained:
    """A run that learns something."""
    trained = Trained(*job(folder, {"optimizer.lr": 0.02}))
    trained.run()
    return trained


def untimed(events: list[BaseModel]) -> list[dict[str, Any]]:
    """The events' values without those of the clock."""
    timings = {"step_ms", "seconds", "samples_per_second"}
    return [e.model_dump(exclude=timings) for e in events]


def assert_same(one: State, other: State) -> None:
    """Weights, optimizer, balancer, generators and position are equal bit for bit."""
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name
    values, values_2 = json.loads(one.values), json.loads(other.values)
    for timed in (values["position"], values_2["position"]):
        del timed["seconds"], timed["epoch_seconds"]
    assert values == values_2


class TestResume:
    def test_the_undisturbed_run_stops_early(self, undisturbed: Trained) -> None:
        """The runs that the following tests interrupt have an early stop to get right."""
        assert 2 < undisturbed.training.at.epoch < 8

    def test_each_step_follows_from_the_state_before(self, undisturbed: Trained) -> None:
        """From any step's state, mid-epoch or between, a new process comes to the next one."""
        spec, data = undisturbed.training.spec, undisturbed.training.data
        assert [s.step for s in undisturbed.saved] == [e.step for e in undisturbed.steps]
        for before, after in pairwise(undisturbed.saved):
            resumed = Trained(spec, data)
            torch.manual_seed(before.step)  # whatever the generator was at
            before.into(resumed.training)
            resumed.run(stop_at=after.step + 1)
            assert_same(resumed.saved[0], after)

    @pytest.mark.parametrize(
        "stops", [[7], [6, 8], [6, 7, 8, 9], [STEPS], [STEPS - 1, STEPS, 2 * STEPS]], ids=str
    )
    def test_interruptions_leave_no_trace(self, undisturbed: Trained, stops: list[int]) -> None:
        """Stopped after these steps, several in one epoch or at its last, a run emits the same."""
        spec, data = undisturbed.training.spec, undisturbed.training.data
        attempt = Trained(spec, data)
        events: list[Any] = []
        for stop in stops:
            assert not attempt.run(stop_at=stop)
            assert attempt.training.at.step == stop
            events += attempt.events
            state = State(attempt.training)
            attempt = Trained(spec, data)
            torch.manual_seed(stop)
            state.into(attempt.training)
        assert attempt.run()
        assert untimed(events + attempt.events) == untimed(undisturbed.events)
        assert_same(State(attempt.training), State(undisturbed.training))

    def test_a_finished_run_takes_no_step(self, undisturbed: Trained) -> None:
        """Restored from its end, a run ends at once, its gates and its worth as they were."""
        again = Trained(undisturbed.training.spec, undisturbed.training.data)
        undisturbed.saved[-1].into(again.training)
        assert again.training.finished
        assert again.run()
        assert again.events == []
        epoch = undisturbed.training.at.epoch
        assert again.training.verdict.final(epoch) == undisturbed.training.verdict.final(epoch)
        assert again.training.at.worth.keys() == set(undisturbed.training.names)
        assert again.training.at.worth == undisturbed.training.at.worth

    def test_time_is_counted_over_attempts(self, folder: Path) -> None:
        """The epochs' seconds add up to the run's, however it was cut."""
        first = Trained(*job(folder))
        first.run(stop_at=7)
        second = Trained(first.training.spec, first.training.data)
        State(first.training).into(second.training)
        second.run()
        total = sum(e.seconds for e in first.epochs + second.epochs)
        assert total == pytest.approx(second.training.at.seconds)

    def test_values_that_are_not_finite_survive(self, folder: Path) -> None:
        """A ratio to nothing and a skill over nothing are restored all the same."""
        gate = {"ratio": ["down", "dead"], "between": [0, 9], "by_epoch": 1}
        edits = {"tasks": [*SMALL["tasks"], DEAD], "gates": [gate], "checkpoint.every_steps": 1}
        whole = Trained(*job(folder, edits))
        whole.run()
        assert whole.epochs[0].tasks["dead"].skill == -math.inf
        assert whole.gates[0].measured == math.inf
        assert not whole.gates[0].passed
        resumed = Trained(whole.training.spec, whole.training.data)
        whole.saved[STEPS].into(resumed.training)
        resumed.run()
        assert_same(State(resumed.training), State(whole.training))


class TestSeeds:
    def test_the_same_seed_repeats_a_run(self, folder: Path) -> None:
        """Two runs of a seed end in the same weights; one of another seed does not."""
        ends = []
        for seed in (1, 1, 2):
            trained = Trained(*job(folder, {"seed": seed}))
            trained.run()
            ends.append(weights(trained.training))
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
        assert not any(
            torch.equal(ends[0][name], ends[2][name]) for name in ends[0] if "weight" in name
        )

    def test_every_sample_once_an_epoch(self, folder: Path) -> None:
        """An epoch's order is a permutation, another one by epoch and by seed; no sample lost."""
        orders = {(seed, epoch): o for seed in (0, 1) for epoch, o in self._orders(folder, seed)}
        for order in orders.values():
            assert sorted(order) == list(range(TRAIN))
        assert len({tuple(order) for order in orders.values()}) == len(orders) == 6

    @staticmethod
    def _orders(folder: Path, seed: int) -> list[tuple[int, list[int]]]:
        """The sample numbers in the order in which the network was given them, by epoch."""
        index = {"name": "index", "level": "window", "loss": {"kind": "mae"}}
        trained = Trained(*job(folder, {"tasks": [index], "seed": seed}))
        seen: list[list[int]] = []

        update = trained.training.stepper.update

        def look(parts: Sequence[Part], *more: Any) -> Measured:
            seen.extend(part.targets[0].flatten().long().tolist() for part in parts)
            return update(parts, *more)

        trained.training.stepper.update = look  # type: ignore[method-assign, assignment]
        trained.run()
        assert [len(batch) for batch in seen] == [8, 8, 8, 8, 4] * 3
        flat = [sample for batch in seen for sample in batch]
        return [(e, flat[TRAIN * e : TRAIN * (e + 1)]) for e in range(3)]

    def test_batches_of_nothing(self, folder: Path) -> None:
        """No samples make no batch, rather than an empty one."""
        spec, data = job(folder)
        training = Trainer(spec, data)
        nothing = torch.arange(0)
        assert list(batches(data.train, nothing, 8, training.losses, CPU)) == []


class TestEarlyStop:
    @pytest.mark.parametrize("task", ["level", "*"])
    def test_stops_when_nothing_improves(self, folder: Path, task: str) -> None:
        """The last epoch is the first that is `patience` epochs after the best one."""
        stop = {"task": task, "patience": 2}
        edits = {"train.early_stop": stop, "train.epochs": 40, "optimizer.lr": 0.2}
        trained = Trained(*job(folder, edits))
        trained.run()
        first = trained.epochs[0].tasks
        scores: list[float] = []
        for epoch in trained.epochs:
            relative = {
                name: t.val_loss_original / first[name].val_loss_original
                for name, t in epoch.tasks.items()
            }
            scores.append(relative[task] if task != "*" else fmean(relative.values()))
        stale = [n - int(np.argmin(scores[: n + 1])) for n in range(len(scores))]
        assert stale[-1] == 2
        assert max(stale[:-1]) < 2
        assert len(scores) < 40
        assert trained.training.at.best_epoch[task] == int(np.argmin(scores)) + 1

    @pytest.mark.parametrize("metric", ["r2", "mae"])
    def test_watches_a_metric(self, folder: Path, metric: str) -> None:
        """Whichever direction of it is better."""
        stop = {"task": "level", "metric": metric, "patience": 2}
        edits = {"train.early_stop": stop, "train.epochs": 40, "optimizer.lr": 0.2}
        trained = Trained(*job(folder, edits))
        trained.run()
        values = [epoch.tasks["level"].val_metrics[metric] or 0.0 for epoch in trained.epochs]
        best = int(np.argmax(values) if metric == "r2" else np.argmin(values))
        assert len(values) == best + 1 + 2 < 40
        assert trained.training.at.best_epoch == {f"level.{metric}": best + 1}

    def test_a_metric_that_never_has_a_value(self, folder: Path) -> None:
        """The run ends without a verdict, and says so; nor is there a best checkpoint."""
        spec, data = job(
            folder,
            {
                "train.early_stop": {"task": "level", "metric": "r2", "patience": 2},
                "checkpoint": {"best_of": "level", "best_metric": "r2"},
            },
        )
        data.validation.targets["level"].fill_(5.0)
        trained = Trained(spec, data)
        trained.run()
        assert len(trained.epochs) == 2
        why = trained.training.undecidable()
        assert why == (
            "early stop ended the run, because the validation r2 of level has no value any more"
        )


class TestBest:
    def test_by_a_metric(self, folder: Path) -> None:
        """A checkpoint is saved at each new highest value of a metric of which higher is better."""
        kept = {"best_of": "kind", "best_metric": "accuracy", "every_epochs": 50}
        trained = Trained(*job(folder, {"checkpoint": kept, "train.epochs": 6}))
        saved: list[int] = []
        at = trained.training.at
        trained.training.run(trained.events.append, lambda: saved.append(at.epoch), lambda: False)
        values = [epoch.tasks["kind"].val_metrics["accuracy"] or 0.0 for epoch in trained.epochs]
        highest = [n + 1 for n in range(6) if values[n] > max(values[:n], default=-1)]
        assert saved == sorted({*highest, 6})

    def test_every_epoch_has_its_own_score(self, folder: Path) -> None:
        """A checkpoint is scored by its own epoch, and each new minimum is saved, also where none
        would be due."""
        edits = {"checkpoint": {"best_of": "pair", "every_epochs": 50}, "train.epochs": 12}
        trained = Trained(*job(folder, edits | {"optimizer.lr": 0.2}))
        saved: list[tuple[int, float]] = []

        def save() -> None:
            at = trained.training.at
            saved.append((at.epoch, at.score["pair"]))

        trained.training.run(trained.events.append, save, lambda: False)
        losses = [epoch.tasks["pair"].val_loss_original for epoch in trained.epochs]
        minima = [n for n in range(12) if losses[n] < min(losses[:n], default=math.inf)]
        assert 1 < len(minima) < 12
        assert saved == [(n + 1, losses[n]) for n in sorted({*minima, 11})]


class TestEvaluation:
    def test_skill_compares_the_same_samples(self, folder: Path) -> None:
        """With part of the training split evaluated, its baseline is scored on that part too: a
        network that predicts the best constant has no skill, whichever samples it is."""
        spec, data = job(folder, {"train.evaluate": 7})
        training = Trainer(spec, data)
        chosen = evenly_spaced(TRAIN, 7)
        y = data.train.targets["level"]
        expected = (y[chosen] - y.mean(0)).square().mean().item()
        assert training.yardsticks.baselines[1].constant["train"] == pytest.approx(expected)

    def test_is_the_mean_over_the_samples(self, folder: Path) -> None:
        """Both losses are those of the predictions for the whole split, computed directly."""
        trained = Trained(*job(folder))
        trained.run()
        training, split = trained.training, trained.training.data.validation
        losses = evaluate(training.stepper.model, training.losses, split, CPU)
        level, pair = (SMALL["tasks"].index(t) for t in SMALL["tasks"] if t["name"] in "levelpair")
        with torch.no_grad():
            outputs = training.stepper.model.eval()(split.inputs)
        error = training.losses[level].predict(outputs[level]) - split.targets["level"]
        assert losses.original[level] == pytest.approx(error.square().mean().item(), rel=1e-5)
        scale = training.losses[level].scale.item()
        assert losses.transformed[level] == pytest.approx(
            losses.original[level] / scale**2, rel=1e-5
        )
        error = outputs[pair] - split.targets["pair"]
        assert losses.original[pair] == pytest.approx(error.abs().mean().item(), rel=1e-5)
        last = trained.epochs[-1].tasks
        assert [t.val_loss_original for t in last.values()] == losses.original
        assert [t.val_loss for t in last.values()] == losses.transformed

    def test_metrics_are_those_of_all_samples(self, folder: Path) -> None:
        """Of each split at once, whatever the batches; they are what an epoch tells."""
        trained = Trained(*job(folder, {"train.evaluate": 9, "tasks": [*SMALL["tasks"], RISING]}))
        trained.run()
        training, last = trained.training, trained.epochs[-1].tasks
        for split, most, field in (("train", 9, "metrics"), ("validation", 99, "val_metrics")):
            part = getattr(training.data, split)
            chosen = evenly_spaced(len(part), most)
            with torch.no_grad():
                outputs = training.stepper.model.eval()(part.inputs_of(chosen))
            for loss, mine in zip(training.losses, outputs, strict=True):
                summary = summarize(loss.task, loss.predict(mine))
                expected = measure(loss.task, summary, part.targets[loss.task.name][chosen])
                told = getattr(last[loss.task.name], field)
                assert told == pytest.approx(expected, rel=1e-5)
                assert list(told) == list(loss.task.measured)

    def test_metrics_do_not_depend_on_batches(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In batches of 4, 4 and 1, also where nothing adds up, as in a rank."""
        edits = {"tasks": [RISING]}
        training = Trainer(*job(folder, edits))
        split = training.data.validation
        found = []
        for size in (512, 4):
            monkeypatch.setattr("job.train.evaluate.BATCH", size)
            model = training.stepper.model
            losses = evaluate(model, training.losses, split, CPU, metrics=True)
            found.append(losses.metrics[0])
        assert found[0] == pytest.approx(found[1], rel=1e-6)
        assert None not in found[0].values()

    def test_weighs_a_smaller_last_batch_by_its_samples(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In batches of 4, 4 and 1 the losses are those of the 9 samples at once."""
        training = Trainer(*job(folder))
        arguments = (training.stepper.model, training.losses, training.data.validation, CPU)
        at_once = evaluate(*arguments)
        monkeypatch.setattr("job.train.evaluate.BATCH", 4)
        in_parts = evaluate(*arguments)
        assert in_parts.original == pytest.approx(at_once.original, rel=1e-6)
        assert in_parts.transformed == pytest.approx(at_once.transformed, rel=1e-6)

    def test_takes_the_chosen_samples(self, folder: Path) -> None:
        """Every fourth of 36 training samples."""
        training = Trainer(*job(folder))
        split = training.data.train
        fourth = Split(
            {"features": split.inputs["features"][::4]},
            {name: y[::4] for name, y in split.targets.items()},
        )
        chosen = torch.arange(0, 36, 4)
        some = evaluate(training.stepper.model, training.losses, split, CPU, chosen)
        same = evaluate(training.stepper.model, training.losses, fourth, CPU)
        every = evaluate(training.stepper.model, training.losses, split, CPU)
        assert some[:3] == same[:3]
        assert torch.equal(some.by_sample, same.by_sample)
        assert some[:3] != every[:3]
        torch.testing.assert_close(some.by_sample, every.by_sample[:, ::4])

    @pytest.mark.parametrize("mode", [True, False])
    def test_leaves_the_mode_as_it_was(self, folder: Path, mode: bool) -> None:
        """Evaluation switches dropout off for itself only."""
        training = Trainer(*job(folder))
        model = training.stepper.model.train(mode)
        evaluate(model, training.losses, training.data.validation, CPU)
        assert all(module.training is mode for module in model.modules())


class TestEpoch:
    def test_drop_is_since_the_first_epoch(self, trained: Trained) -> None:
        """1 − loss / loss after epoch 1, in original units, on either split."""
        first = trained.epochs[0].tasks
        for epoch in trained.epochs:
            for name, task in epoch.tasks.items():
                drop = 1 - task.train_loss_original / first[name].train_loss_original
                val_drop = 1 - task.val_loss_original / first[name].val_loss_original
                assert task.drop == pytest.approx(drop)
                assert task.val_drop == pytest.approx(val_drop)
        assert trained.epochs[-1].tasks["pair"].drop != 0

    def test_skill_is_over_the_best_trivial_prediction(self, trained: Trained) -> None:
        """1 − loss / baseline, of each split the strongest: variance of a mean, deviation from a
        median, by position or not, fitted on the training split or on the very split."""
        splits = trained.training.data.train, trained.training.data.validation
        for name, rest in (("level", self._mean_error), ("pair", self._median_error)):
            train, validation = (split.targets[name] for split in splits)
            task = trained.epochs[-1].tasks[name]
            skill = 1 - task.train_loss_original / rest(train, train)
            val_skill = 1 - task.val_loss_original / rest(train, validation)
            assert task.skill == pytest.approx(skill, rel=1e-4)
            assert task.val_skill == pytest.approx(val_skill, rel=1e-4)

    @staticmethod
    def _mean_error(train: torch.Tensor, split: torch.Tensor) -> float:
        """The square error of the better mean, that of the training split or the split's own."""
        return min((split - guess).square().mean().item() for guess in (train.mean(), split.mean()))

    @staticmethod
    def _median_error(train: torch.Tensor, split: torch.Tensor) -> float:
        """The error of the best median: one, one per position, or the split's own; per output."""
        guesses = (
            train.flatten(0, 1).median(0).values,
            train.median(0).values,
            split.flatten(0, 1).median(0).values,
        )
        return min((split - guess).abs().mean().item() for guess in guesses)

    def test_a_skill_has_its_error(self, trained: Trained) -> None:
        """Of the samples' losses beside the trivial ones; a run without overlap has a sample a
        block. The drop of the trivial prediction is from the same start."""
        training = trained.training
        first, last = trained.epochs[0].tasks, trained.epochs[-1].tasks
        for split, loss, prefix in (("train", "train", ""), ("validation", "val", "val_")):
            data = getattr(training.data, split)
            losses = evaluate(training.stepper.model, training.losses, data, CPU)
            for name in ("level", "pair"):
                k, task = training.names.index(name), last[name]
                trivial = training.yardsticks.baselines[k].by_sample[split]
                value, error, low = measure_skill(losses.by_sample[k], trivial, 1)
                assert getattr(task, f"{prefix}skill") == pytest.approx(value)
                assert getattr(task, f"{prefix}skill_error") == pytest.approx(error)
                assert getattr(task, f"{prefix}skill_low") == pytest.approx(low)
                assert error > 0
                drop = 1 - trivial.mean().item() / getattr(first[name], f"{loss}_loss_original")
                assert getattr(task, f"{prefix}drop_trivial") == pytest.approx(drop)

    def test_gradients_are_means_over_its_steps(self, trained: Trained) -> None:
        """Weight, norm, share and pulls are the means of the epoch's own steps."""
        for epoch in trained.epochs:
            steps = [s for s in trained.steps if s.epoch == epoch.epoch]
            assert len(steps) == STEPS
            for name, task in epoch.tasks.items():
                mine = [s.tasks[name] for s in steps]
                assert task.weight == pytest.approx(np.mean([t.weight for t in mine]))
                assert task.grad_norm == pytest.approx(np.mean([t.grad_norm for t in mine]))
                assert task.grad_share == pytest.approx(np.mean([t.grad_share for t in mine]))
                assert task.pull == pytest.approx(np.mean([t.weight * t.grad_norm for t in mine]))
                head_pull = np.mean([t.weight * t.head_grad_norm for t in mine])
                assert task.head_pull == pytest.approx(head_pull)


class TestLoop:
    def test_every_step_is_emitted_in_order(self, folder: Path) -> None:
        """Steps are counted from 1; those of an epoch come before it, whatever `log.every` is."""
        trained = Trained(*job(folder))
        trained.run()
        events = [e for e in trained.events if isinstance(e, Step | Epoch)]
        order = [e.step if isinstance(e, Step) else f"epoch {e.epoch}" for e in events]
        one, two, three = range(1, 6), range(6, 11), range(11, 16)
        assert order == [*one, "epoch 1", *two, "epoch 2", *three, "epoch 3"]

    @pytest.mark.parametrize(("log", "at"), [({}, [1, 201]), ({"audit_every": 70}, [1, 71, 141])])
    def test_audits_are_100_steps_apart_for_each_task(
        self, folder: Path, log: dict[str, int], at: list[int]
    ) -> None:
        """Unless stated, two tasks are audited at every 200th step."""
        edits = {"tasks": SMALL["tasks"][:2], "log": log, "train.batch_size": 1, "train.epochs": 6}
        trained = Trained(*job(folder, edits))
        trained.run(stop_at=205)
        audited = [
            step.step
            for step in trained.steps
            if any(task.shared_grad_norm is not None for task in step.tasks.values())
        ]
        assert audited == at

    def test_an_own_network_is_looked_at_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What its tasks depend on is measured at every 50th step, audited or not; one alarm."""
        edits = {"train.batch_size": 1, "log": {"audit_every": 0}}
        path = place(tmp_path, FORWARD, edits=edits)
        trained = Trained(spec := parse_spec(path.read_text()), load(spec, tmp_path))
        looked: list[int] = []

        def unforeseen(*_: Any) -> dict[str, list[str]]:
            looked.append(trained.training.at.step)
            return {"kind": ["gru"]} if len(looked) > 1 else {}

        monkeypatch.setattr("job.train.trainer.unforeseen", unforeseen)
        trained.run()
        assert looked == [1, 51, 101]
        alarms = [e for e in trained.events if isinstance(e, Alarm)]
        assert [a.task for a in alarms if a.kind == "ownership_changed"] == ["kind"]

    def test_the_schedule_is_over_the_whole_run(self, folder: Path) -> None:
        """cosine: from the full rate at the first step to nearly 0 at the last."""
        trained = Trained(*job(folder, {"train.schedule": "cosine", "optimizer.lr": 0.5}))
        trained.run()
        whole = 3 * STEPS
        rates = [0.25 * (1 + math.cos(math.pi * step / whole)) for step in range(whole)]
        assert [step.lr for step in trained.steps] == pytest.approx(rates)

    @pytest.mark.parametrize(
        ("kept", "at"),
        [
            ({"every_epochs": 1}, [5, 10, 15]),
            ({"every_epochs": 2}, [10, 15]),
            ({"every_epochs": None}, [15]),
            ({"every_epochs": None, "every_steps": 5}, [5, 10, 15]),
            ({"every_epochs": None, "every_steps": 4}, [4, 8, 12, 15]),
            ({"every_epochs": 1, "every_steps": 3}, [3, 5, 6, 9, 10, 12, 15]),
        ],
        ids=str,
    )
    def test_saves_when_asked(self, folder: Path, kept: dict[str, Any], at: list[int]) -> None:
        """By epochs, by steps, both, never twice at one step, and always at the end."""
        trained = Trained(*job(folder, {"checkpoint": kept}))
        trained.run()
        assert [state.step for state in trained.saved] == at

    def test_a_slow_save_slows_no_step(self, folder: Path) -> None:
        """Time spent saving belongs to the epoch, not to the steps after it."""
        edits = {"checkpoint.every_steps": 3, "log.every": 1, "train.epochs": 1}
        now = 0.0

        def save() -> None:
            nonlocal now
            now += 300.0

        training = Trainer(*job(folder, edits), clock=lambda: now)
        events: list[Any] = []
        training.run(events.append, save, lambda: False)
        assert [e.step_ms for e in events if isinstance(e, Step)] == [0] * STEPS
        (epoch,) = (e for e in events if isinstance(e, Epoch))
        assert epoch.seconds == 300
        assert epoch.samples_per_second == TRAIN / 300

    def test_stops_before_an_update_that_is_not_finite(self, folder: Path) -> None:
        """The error names task and step; the weights are those after the step before."""
        spec, data = job(folder, {"tasks": [*SMALL["tasks"], HUGE], "model.init.heads": "default"})
        guilty = self._step_of(spec.seed, HUGE_SAMPLE)
        assert guilty > 1
        trained = Trained(spec, data)
        with pytest.raises(NotFinite, match=f"^step {guilty}: the loss of task huge is inf;"):
            trained.run()
        assert trained.training.at.step == len(trained.steps) == guilty - 1
        before = Trained(spec, data)
        before.run(stop_at=guilty - 1)
        after = weights(trained.training)
        for name, parameter in weights(before.training).items():
            assert torch.equal(parameter, after[name])

    @staticmethod
    def _step_of(seed: int, sample: int) -> int:
        """The step of the first epoch that a sample is in."""
        generator = torch.Generator().manual_seed(seed * 1_000_003)
        return torch.randperm(TRAIN, generator=generator).tolist().index(sample) // 8 + 1

    @pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
    def test_a_device_that_is_not_here(self, folder: Path) -> None:
        """Asking for CUDA where there is none is a fault of the spec, in one line."""
        with pytest.raises(InputError, match=r"^\$\.train\.device: found \"cuda\"; torch finds no"):
            Trainer(*job(folder, {"train.device": "cuda"}))


def test_data_is_what_the_tests_say(folder: Path) -> None:
    """36 training samples in 5 batches, 9 to validate on."""
    data: Dataset = job(folder)[1]
    assert (len(data.train), len(data.validation)) == (TRAIN, VALIDATION)
    assert math.ceil(TRAIN / SMALL["train"]["batch_size"]) == STEPS
