"""A run as a folder that other programs load: the network, a card, licence notes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from job.data.dataset import Dataset
from job.data.dataset import load as load_data
from job.errors import Fault, InputError
from job.evaluate.evaluation import own_losses
from job.events import FinalTestTask
from job.export.new_folder import check_no_folder, new_folder
from job.package.card import CARD, Facts, card
from job.package.export import Exported, export
from job.package.licences import copy_notes, sources
from job.package.served import Served
from job.predict import Predictor
from job.predict.predicted import names
from job.predict.predictor import BATCH
from job.record.history import read_events
from job.train.at_end import measured_tasks
from job.train.evaluate import evaluate, evenly_spaced
from job.train.yardsticks import Yardsticks

MOST = 2048
"""Validation samples on which the files are checked, at most, evenly spaced."""


def package(predictor: Predictor, out: Path) -> list[Exported]:
    """Write the folder; returns what became of each format.

    The run's data must lie where its spec names it, from the predictor's folder. Raises InputError.
    """
    check_no_folder(out)
    _check_data_is_there(predictor)
    data = load_data(predictor.spec, predictor.folder)
    rows = evenly_spaced(len(data.validation), MOST)
    samples = data.validation.inputs_of(rows)
    with new_folder(out) as folder:
        served = Served(predictor, list(samples)).eval()
        exported = export(served, list(samples.values()), predictor.spec.task_names, folder, BATCH)
        found = sources(predictor.spec, predictor.folder)
        facts = Facts(
            samples={"training": len(data.train), "validation": len(data.validation)},
            measured=_measured(predictor, data),
            checked=len(rows),
            weights=predictor.weights,
            exported=exported,
            inputs={
                name: (str(x.dtype).removeprefix("torch."), list(x.shape[1:]))
                for name, x in samples.items()
            },
            sources=found,
            notes=copy_notes(found, folder),
            alarms=_alarms(predictor),
        )
        (folder / CARD).write_text(card(predictor, facts), "utf-8")
        text = json.dumps(_interface(predictor, facts), indent=1, ensure_ascii=False)
        (folder / "interface.json").write_text(f"{text}\n", "utf-8")
        (folder / "spec.json").write_text(predictor.spec.canonical(), "utf-8")
    return exported


def _check_data_is_there(predictor: Predictor) -> None:
    """Raise InputError if the run's data does not lie where its spec names it."""
    named = predictor.spec.data.path
    path = (predictor.folder / named).absolute()
    if not named.startswith("s3://") and not path.exists():
        rule = "the files are checked on the run's validation data"
        remedy = "name the folder of the spec with --spec-folder, or supply the data"
        raise InputError([Fault(named, f"no file at {path}", rule, remedy)])


def _measured(predictor: Predictor, data: Dataset) -> dict[str, FinalTestTask]:
    """By task, what the validation split shows, as the run measures it."""
    losses = own_losses(predictor)
    yardsticks = Yardsticks(losses, data)
    there = [loss.to(predictor.device) for loss in losses]
    found = evaluate(predictor.model, there, data.validation, predictor.device, metrics=True)
    return measured_tasks(yardsticks, found)


def _alarms(predictor: Predictor) -> list[str]:
    origin = predictor.origin
    events = read_events(origin.store, origin.run)  # no resume takes an alarm back
    return [event["message"] for event in events if event["event"] == "alarm"]


def _interface(predictor: Predictor, facts: Facts) -> dict[str, Any]:
    """What a program needs to fill the inputs and to read the outputs."""
    levels = {k: v for e in predictor.encoders.values() for k, v in e.info.levels.items()}
    return {
        "inputs": {
            name: {
                "type": kind,
                "shape": [None, *shape],
                "features": list(_features(predictor, name)),
            }
            for name, (kind, shape) in facts.inputs.items()
        },
        "levels": levels,
        "outputs": {
            task.name: {
                "loss": task.loss.kind,
                "unit": task.unit,
                "level": task.level,
                "names": list(names(task, predictor.classes.get(task.name, []))),
            }
            for task in predictor.spec.tasks
        },
    }


def _features(predictor: Predictor, name: str) -> tuple[str, ...]:
    """Names of the features of a table's input; empty if they have none."""
    encoder = predictor.encoders.get(name)
    return () if encoder is None else encoder.info.names
