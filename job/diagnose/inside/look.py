"""What a probe sees of the inside of its network: once, and at both ends of its training."""

from __future__ import annotations

from dataclasses import dataclass

from job.diagnose.inside.batch_norms import BatchNorms, batch_norms
from job.diagnose.inside.frozen import frozen_at_random
from job.diagnose.inside.modes import Modes, modes
from job.diagnose.inside.ranges import Range, ranges
from job.diagnose.inside.relus import Relu, relus
from job.diagnose.inside.signals import Signals, signals
from job.diagnose.inside.twins import Twins, twin_layers
from job.train.trainer import Trainer


@dataclass(frozen=True)
class Structure:
    """What no training changes."""

    ranges: dict[str, Range]
    """By task."""
    modes: Modes
    frozen: list[str]
    """Parameters that do not train, though they hold the numbers of a random start."""


@dataclass(frozen=True)
class Activity:
    """What a network does at some step."""

    signals: Signals
    relus: list[Relu]
    batch_norms: BatchNorms
    twins: list[Twins]


def structure(training: Trainer) -> Structure:
    """The structure of a network."""
    return Structure(ranges(training), modes(training), frozen_at_random(training))


def activity(training: Trainer) -> Activity:
    """The activity of a network as it is now."""
    model = training.model
    return Activity(signals(training), relus(training), batch_norms(training), twin_layers(model))
