"""Start and evaluation against the number of samples, N."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from job.data.dataset import load
from job.train.alarms.of_data import data_alarms
from job.train.evaluate import Losses, evaluate
from job.train.trainer import Trainer
from tests.bench.scale.cost import Costs, cost
from tests.bench.scale.jobs import job, loaded, table

SIZES = (4_000, 16_000, 64_000, 256_000)
HALF = 0.5
"""Share of the validation split, where it is what is measured."""


def load_arrays(samples: int, folder: Path, rounds: int) -> Costs:
    spec = job(folder, samples=samples)
    return cost(lambda: load(spec, folder), rounds)


def load_table(samples: int, folder: Path, rounds: int) -> Costs:
    spec = table(folder, samples)
    return cost(lambda: load(spec, folder), rounds)


def make_trainer(samples: int, folder: Path, rounds: int) -> Costs:
    spec, data = loaded(folder, samples=samples)
    return cost(lambda: Trainer(spec, data), rounds)


def find_alarms(samples: int, folder: Path, rounds: int) -> Costs:
    spec, data = loaded(folder, samples=samples)
    scalings = Trainer(spec, data).model.scalings
    return cost(lambda: list(data_alarms(spec, data, scalings)), rounds)


def evaluate_split(samples: int, folder: Path, rounds: int) -> Costs:
    training = _trainer(folder, samples)
    return cost(lambda: _evaluated(training), rounds)


def measure_skills(samples: int, folder: Path, rounds: int) -> Costs:
    training = _trainer(folder, samples)
    losses = _evaluated(training)
    return cost(lambda: training.yardsticks.skills("validation", losses), rounds)


MEASURES: dict[str, Callable[[int, Path, int], Costs]] = {
    "load and check arrays": load_arrays,
    "load and check a CSV table": load_table,
    "scaling, trivial predictions, network": make_trainer,
    "alarms about the data": find_alarms,
    "evaluation with metrics": evaluate_split,
    "skills and their errors": measure_skills,
}


def _trainer(folder: Path, samples: int) -> Trainer:
    return Trainer(*loaded(folder, samples=samples, validation=HALF))


def _evaluated(training: Trainer) -> Losses:
    split = training.data.validation
    return evaluate(
        training.stepper.model,
        training.losses,
        split,
        training.device,
        metrics=True,
    )
