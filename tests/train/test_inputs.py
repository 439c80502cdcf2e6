"""Jobs of several inputs learn from each what it alone tells; they resume, and ranks agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_wine

from job.cli.validate import _input_lines
from job.data.dataset import Dataset, load
from job.diagnose.diagnose import diagnose
from job.distributed.ranks import ALONE, Ranks
from job.events import RunStarted
from job.run.started import started
from job.spec import Arrays, JobSpec
from job.spec.read import parse_spec
from job.train.alarms.of_data import data_alarms
from job.train.trainer import Trainer
from tests.support.tiny_job import State, Trained
from tests.support.two_ranks import Ended, Ranked, pair

N = 600
STANDARD = {"kind": "standardize"}
DIGITS: dict[str, Any] = {
    "name": "digits",
    "data": {
        "kind": "arrays",
        "path": "digits.npz",
        "inputs": {
            "image": {"source": "pictures", "kind": "image"},
            "age": {"missing": "mean"},
            "city": {"kind": "codes"},
        },
    },
    "model": {"kind": "mlp", "hidden": [64], "projection": 32},
    "tasks": [
        {"name": "digit", "level": "sample", "outputs": 10, "loss": {"kind": "cross_entropy"}},
        {"name": "height", "level": "sample", "loss": {"kind": "mse"}, "transform": STANDARD},
        {"name": "income", "level": "sample", "loss": {"kind": "mse"}, "transform": STANDARD},
    ],
    "optimizer": {"lr": 3e-3},
    "train": {"epochs": 12, "batch_size": 32, "threads": 1, "device": "cpu"},
}
"""The digit is told by the image alone, the height by the age, the income by the city."""
TOLD_BY = {"digit": "pictures", "height": "age", "income": "city"}
SENTENCES: dict[str, Any] = {
    "name": "sentences",
    "data": {
        "kind": "arrays",
        "path": "sentences.npz",
        "inputs": {
            "words": {"kind": "tokens", "lengths": "long"},
            "loudness": {},
            "speaker": {"kind": "codes"},
        },
    },
    "model": {"hidden": 16, "projection": 16, "dropout": {"input": 0.1, "heads": 0.1}},
    "tasks": [
        {"name": "sum", "level": "sample", "loss": {"kind": "mse"}, "transform": STANDARD},
        {"name": "verb", "level": "position", "outputs": 2, "loss": {"kind": "cross_entropy"}},
        {"name": "tone", "level": "position", "loss": {"kind": "huber"}, "transform": STANDARD},
    ],
    "optimizer": {"lr": 1e-2},
    "train": {"epochs": 3, "batch_size": 16, "threads": 1, "device": "cpu"},
    "checkpoint": {"every_steps": 5},
}


def digits(folder: Path, permuted: str = "") -> None:
    """Images of digits as bytes, ages and cities; the rows of one input may be permuted."""
    draw = np.random.default_rng(0)
    images, kinds = load_digits(return_X_y=True)
    age, city = draw.uniform(20, 90, N), draw.integers(0, 5, N)
    arrays: dict[str, Any] = {
        "pictures": (images[:N].reshape(-1, 8, 8) * 15.9).astype(np.uint8),
        "age": np.where(draw.random(N) < 0.05, np.nan, age),
        "city": np.array(["Rome", "Oslo", "Bern", "Lima", "Bonn"])[city],
        "digit": kinds[:N],
        "height": np.sqrt(age) + 0.1 * draw.normal(size=N),
        "income": np.array([3.0, -1, 4, -1.5, 9])[city] + 0.3 * draw.normal(size=N),
    }
    if permuted:
        arrays[permuted] = draw.permutation(arrays[permuted])
    np.savez(folder / "digits.npz", **arrays)


def sentences(folder: Path, garbage: int | None = None, longer: int = 0) -> None:
    """Token ids of different lengths; at padding 0, or what a seed draws, `longer` steps more."""
    draw = np.random.default_rng(0)
    long, steps = draw.integers(2, 10, 80), 9 + longer
    real = np.arange(steps) < long[:, None]

    def wide(values: Any, of: Any) -> Any:
        out = np.zeros((80, steps)) if garbage is None else of(np.random.default_rng(garbage))
        out[:, :9] = np.where(real[:, :9], values, out[:, :9])
        return out

    words, loud = draw.integers(0, 6, (80, 9)), draw.normal(size=(80, 9))
    worth = np.array([1.0, -2, 3, 0, 0.5, -1])[words]
    np.savez(
        folder / "sentences.npz",
        words=wide(words, lambda d: d.integers(50, 99, (80, steps)).astype(float)),
        loudness=wide(loud, lambda d: d.normal(0, 1e6, (80, steps)))[..., None],
        speaker=np.arange(80) % 3,
        long=long,
        sum=(worth * real[:, :9]).sum(1) / long,
        verb=wide(words % 2, lambda d: d.integers(0, 2, (80, steps)).astype(float)),
        tone=wide(loud + worth, lambda d: d.normal(0, 1e6, (80, steps))),
    )


def loaded(section: dict[str, Any], folder: Path, **more: Any) -> tuple[JobSpec, Dataset]:
    spec = parse_spec(json.dumps(section | more))
    return spec, load(spec, folder)


def trained(section: dict[str, Any], folder: Path, **more: Any) -> Trained:
    made = Trained(*loaded(section, folder, **more))
    assert made.run()
    return made


def skills(made: Trained) -> dict[str, float]:
    """Lower ends of the validation skills' 95 % intervals."""
    tasks = made.epochs[-1].tasks
    return {name: float(task.val_skill_low or 0.0) for name, task in tasks.items()}


# --- learning -----------------------------------------------------------------------------------


def test_each_input_tells_what_it_alone_knows(tmp_path: Path) -> None:
    """All three tasks beat the trivial prediction on samples that were held out."""
    digits(tmp_path)
    assert min(skills(trained(DIGITS, tmp_path)).values()) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("task", TOLD_BY)
def test_a_permuted_input_tells_nothing(tmp_path: Path, task: str) -> None:
    """If the rows of one input are permuted, its task alone has no skill."""
    digits(tmp_path, permuted=TOLD_BY[task])
    found = skills(trained(DIGITS, tmp_path))
    assert found.pop(task) <= 0
    assert min(found.values()) > 0.3


@pytest.mark.slow
def test_age_and_city_do_not_drown_an_image(tmp_path: Path) -> None:
    """Convolutions learn the digit beside tasks of inputs without pixels."""
    digits(tmp_path)
    model = {"kind": "conv2d", "width": 16}
    assert min(skills(trained(DIGITS, tmp_path, model=model)).values()) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "conv1d", "transformer"])
def test_padded_sequences_are_learned(tmp_path: Path, kind: str) -> None:
    """From tokens of any length a network learns their mean worth and a class of each; from a
    second input, a number of each."""
    sentences(tmp_path)
    more = {"train": SENTENCES["train"] | {"epochs": 40}, "model": {"kind": kind}}
    made = trained(SENTENCES, tmp_path, **more, optimizer={"lr": 3e-3})
    assert min(skills(made).values()) > 0.2


@pytest.mark.slow
def test_a_class_for_each_pixel(tmp_path: Path) -> None:
    """A task may have a target for each pixel, beside one for the image."""
    images, kinds = load_digits(return_X_y=True)
    seen = images[:N].reshape(-1, 8, 8)
    noisy = seen + np.random.default_rng(0).normal(0, 3, seen.shape)
    np.savez(tmp_path / "digits.npz", image=noisy, ink=(seen > 7).astype(int), digit=kinds[:N])
    ink = {"name": "ink", "level": "position", "outputs": 2, "loss": {"kind": "cross_entropy"}}
    data = DIGITS["data"] | {"inputs": {"image": {"kind": "image"}}}
    model = {"kind": "conv2d", "width": 16}
    tasks = [DIGITS["tasks"][0], ink]
    made = trained(DIGITS, tmp_path, data=data, model=model, tasks=tasks)
    assert min(skills(made).values()) > 0.2


def test_codes_of_a_real_table(tmp_path: Path) -> None:
    """The kind of a wine is told by its measures, cut to codes."""
    measures, kinds = load_wine(return_X_y=True)
    codes = np.stack([np.searchsorted(np.quantile(x, [0.25, 0.5, 0.75]), x) for x in measures.T], 1)
    names = [f"m{i}" for i in range(codes.shape[1])]
    rows = [",".join(map(str, [*row, f"k{kind}"])) for row, kind in zip(codes, kinds, strict=True)]
    (tmp_path / "wine.csv").write_text("\n".join([",".join([*names, "kind"]), *rows]))
    inputs = {"measures": {"source": ["m*"], "kind": "codes"}}
    data = {"kind": "arrays", "path": "wine.csv", "inputs": inputs, "split": {"stratified": "kind"}}
    task = {"name": "kind", "level": "sample", "outputs": 3, "loss": {"kind": "cross_entropy"}}
    made = trained(DIGITS, tmp_path, data=data, tasks=[task])
    assert skills(made)["kind"] > 0.5
    values = json.loads(State(made.training).values)
    assert values["levels"]["m3"] == ["0", "1", "2", "3"]


# --- padding, through a whole run ---------------------------------------------------------------


def losses(made: Trained) -> list[list[float]]:
    return [[t.loss for t in s.tasks.values()] for s in made.steps]


@pytest.mark.parametrize("model", [{"kind": "conv1d", "width": 8, "layers": 2}, None])
def test_a_run_does_not_depend_on_its_padding(tmp_path: Path, model: Any) -> None:
    """Garbage at padding changes no bit of a run; longer padding no more than rounding."""
    model = model or SENTENCES["model"]
    model = model | {"dropout": {"input": 0.0, "heads": 0.0}}
    model["dropout"] |= {"hidden": 0.0} if "kind" in model else {}
    sentences(tmp_path)
    first = trained(SENTENCES, tmp_path, model=model)
    sentences(tmp_path, garbage=1)
    second = trained(SENTENCES, tmp_path, model=model)
    assert losses(first) == losses(second)
    one, two = first.epochs[-1].tasks, second.epochs[-1].tasks
    assert one == two
    sentences(tmp_path, garbage=2, longer=5)
    longer = trained(SENTENCES, tmp_path, model=model)
    assert np.allclose(losses(first), losses(longer), rtol=2e-3)
    for name, task in longer.epochs[-1].tasks.items():
        assert task.val_skill == pytest.approx(one[name].val_skill, abs=2e-3)


# --- going on, and several ranks ----------------------------------------------------------------


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    """Interrupted in an epoch and restored, it ends at the same bits."""
    sentences(tmp_path)
    whole = trained(SENTENCES, tmp_path)
    begun = Trained(*loaded(SENTENCES, tmp_path))
    assert not begun.run(stop_at=6)
    state = State(begun.training)
    rest = Trained(*loaded(SENTENCES, tmp_path))
    state.into(rest.training)
    assert rest.run()
    mine, theirs = State(rest.training), State(whole.training)
    for name, tensor in theirs.tensors.items():
        assert torch.equal(mine.tensors[name], tensor), name


def ranked(ranks: Ranks, folder: Path) -> Ended:
    made = Ranked(Trainer(*loaded(SENTENCES, folder), ranks))
    torch.manual_seed(made.training.spec.seed)
    finished = made.run()
    return Ended(made.events, None, finished, made.training.at.step, State(made.training))


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """Padding and codes divide between ranks: the ends are equal, to rounding that of one."""
    sentences(tmp_path)
    alone = ranked(ALONE, tmp_path)
    with pair() as two:
        first, second = two.both(ranked, tmp_path)
    for name, tensor in alone.end.tensors.items():
        assert torch.equal(first.end.tensors[name], second.end.tensors[name]), name
        torch.testing.assert_close(first.end.tensors[name], tensor, rtol=1e-3, atol=1e-4)


# --- what is told -------------------------------------------------------------------------------


def test_what_is_told_of_inputs(tmp_path: Path) -> None:
    """`run.started` has each input's shape, ranges and levels; `validate` a line for each."""
    digits(tmp_path)
    spec, data = loaded(DIGITS, tmp_path)
    event: RunStarted = started(Trainer(spec, data), None)
    assert event.features == [64, 3]
    assert event.inputs == {"image": [8, 8, 1], "age": [1, 1], "city": [1, 1]}
    assert event.levels == {"city": ["Bern", "Bonn", "Lima", "Oslo", "Rome"]}
    assert event.feature_ranges.keys() == {"image: feature 0", "age: feature 0"}
    assert event.feature_ranges["image: feature 0"] == [0, 254]
    assert isinstance(spec.data, Arrays)
    image, age, city = _input_lines(data, spec.data)
    assert image.startswith(
        "image: 1 feature at 8 x 8 positions, scale standardize: feature 0 0 … 254"
    )
    assert age.startswith("age: 1 feature, scale standardize: feature 0 20")
    assert city == "city: 1 feature, codes: 5 known, and one for all others"


def test_alarms_name_the_input(tmp_path: Path) -> None:
    """One code alone, and a spread far from 1, each have a line that names input and remedy."""
    digits(tmp_path)
    stored = dict(np.load(tmp_path / "digits.npz"))
    stored["city"][:] = "Rome"
    np.savez(tmp_path / "digits.npz", **stored)
    inputs = DIGITS["data"]["inputs"] | {"image": {"source": "pictures", "scale": "none"}}
    inputs["age"] = {"missing": "mean", "scale": "none"}
    stored["age"] *= 1e4
    np.savez(tmp_path / "digits.npz", **stored)
    spec, data = loaded(DIGITS, tmp_path, data=DIGITS["data"] | {"inputs": inputs})
    lines = [
        alarm.message
        for alarm in data_alarms(spec, data, Trainer(spec, data).stepper.model.scalings)
    ]
    assert any(line.startswith("city: feature 0: constant in the training split") for line in lines)
    assert any("set data.inputs.age.scale to" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "sentences"])
def test_the_diagnosis_reads_such_jobs(tmp_path: Path, name: str) -> None:
    """It finds the leak of a target into an input, by name, and runs to its end."""
    (digits if name == "digits" else sentences)(tmp_path)
    stored = dict(np.load(tmp_path / f"{name}.npz"))
    target = "height" if name == "digits" else "tone"
    source = "age" if name == "digits" else "loudness"
    stored[source] = np.exp(stored[target] / 4).reshape(stored[source].shape)
    np.savez(tmp_path / f"{name}.npz", **stored)
    spec, data = loaded(DIGITS if name == "digits" else SENTENCES, tmp_path)
    found = [f for f in diagnose(spec, data).findings if "gives the target away" in f.evidence]
    assert [f.task for f in found] == [target]
    assert found[0].evidence.startswith(f"{source}: feature 0 has a rank correlation")
