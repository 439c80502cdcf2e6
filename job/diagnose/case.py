"""A finding, and the case under diagnosis: the probes so far and the edits that helped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from job.data.dataset import endless_warmup
from job.diagnose.inside.look import Activity, Structure
from job.diagnose.probe import Probe
from job.diagnose.reach import Reach
from job.errors import InputError
from job.spec import JobSpec
from job.spec.losses import loss_unit
from job.spec.patch import Edit, edited

Mechanism = Literal[
    "not_finite",
    "control",
    "frozen_part",
    "evaluation_mode",
    "probabilities",
    "output_range",
    "dead_units",
    "constant_output",
    "blocked_path",
    "targets",
    "copied_samples",
    "outliers",
    "shifted_rows",
    "wrong_labels",
    "split_shift",
    "feature_scale",
    "batch_noise",
    "learning_rate",
    "batch_norm",
    "exploding",
    "vanishing",
    "weight_decay",
    "dropout",
    "clip",
    "batch_size",
    "initialization",
    "width",
    "activation",
    "target_scale",
    "too_few_steps",
    "travel_budget",
    "saturated_loss",
    "uncertainty",
    "starved",
    "conflict",
    "overfitting",
    "uninformative",
    "no_skill",
]
"""Why a task does not learn, in an order in which an earlier cause may hide a later one."""
KNOWS = 0.005
"""Expected skill on the training split above which a task learns."""
WEAK = 0.1
"""Skill on the validation split below which the settings of the whole run are suspects."""
GAIN = 0.1
"""Rise of skill that an edit must give a task that has none."""
WORTH, RISEN = 0.3, 0.05
"""Part of its loss that an edit must take from a task that has skill without it, and rise of the
skill."""
SURE = 3.0
"""Standard errors by which an edit must raise a skill. Of some tens of edits that do nothing, one
is as far above 0 once in 40 diagnoses."""
HARM = 2.0
"""Standard errors by which an edit may lower another task's skill, as chance does."""
FALLEN = 0.03
"""Fall of a skill that is none yet: another seed alone often brings one (EXPERIMENTS.md)."""
PROBES = 40
"""Probes of a diagnosis, at most."""


@dataclass(frozen=True)
class Finding:
    """A cause with its evidence and remedy."""

    mechanism: Mechanism
    task: str | None
    """The task; None if the cause concerns the whole run."""
    evidence: str
    """Numbers with units."""
    remedy: str
    """What to do, in words."""
    edits: tuple[Edit, ...] = ()
    """Edits of the spec; empty if no edit of a spec can help, as with a fault of the data."""
    effect: str = ""
    """What the edits, with those of earlier findings, changed in a probe."""
    helped: tuple[str, ...] = ()
    """Tasks whose skill the edits raised."""


class Watch:
    """Takes what happens in a diagnosis; this one shows nothing."""

    def trying(self, what: str) -> None:
        """A probe begins; `what` it tries, in words."""

    def step(self, done: float) -> None:
        """A share of the present probe is done."""

    def finding(self, finding: Finding) -> None:
        """There is a finding; a later measurement may still withdraw its edits."""


@dataclass
class Case:
    """A spec under diagnosis: its probes, and the edits accepted so far."""

    original: JobSpec
    """The spec without edits, with its gates."""
    first: Probe
    """Probe of the original spec."""
    run_probe: Callable[[JobSpec], Probe]
    """Probes another spec on the same data; raises InputError."""
    reach_of: Callable[[JobSpec], dict[str, Reach]]
    """Reach of another spec's heads before training."""
    until: float
    """Time of the monotonic clock after which nothing more is tried."""
    watch: Watch
    structure: Structure
    """Of the original network."""
    at_start: Activity
    """Of the original network before training."""
    begin: Callable[[Sequence[JobSpec]], int] = lambda specs: 1
    """Begins to probe specs, each of which `run_probe` gets later; returns how many side by side,
    1 if it does nothing."""
    now: Probe = field(init=False)
    """Probe with the edits accepted so far."""
    edits: list[Edit] = field(default_factory=list)
    """The edits accepted so far."""
    closed: set[str] = field(default_factory=set)
    """Tasks with a finding that must be mended before anything else about them can be judged."""
    probes: int = 1
    """Probes so far."""

    def __post_init__(self) -> None:
        self.now = self.first

    @property
    def spec(self) -> JobSpec:
        """The spec with the edits accepted so far."""
        return edited(self.original, self.edits)

    @property
    def late(self) -> bool:
        """True if nothing more is tried."""
        return self.limit is not None

    @property
    def limit(self) -> Literal["probes", "time"] | None:
        """The limit that is reached; None if more can be tried."""
        if self.probes >= PROBES:
            return "probes"
        return "time" if self.first.cut or time.monotonic() > self.until else None

    @property
    def open_tasks(self) -> list[str]:
        """Tasks that are not closed."""
        return [name for name in self.now.names if name not in self.closed]

    def not_learning(self) -> list[str]:
        """Open tasks that, with the edits so far, do not beat their trivial prediction."""
        return [name for name in self.open_tasks if not self.now.expected_skill(name) > KNOWS]

    def weak(self) -> list[str]:
        """Open tasks with hardly any skill on the validation split, with the edits so far."""
        return [name for name in self.open_tasks if is_weak(self.now, name)]

    def edited(self, *edits: Edit) -> JobSpec | None:
        """The spec with further edits; None if that is invalid, also for this data."""
        try:
            spec = edited(self.original, [*self.edits, *edits])
        except InputError:
            return None
        return None if endless_warmup(spec, len(self.first.data.train)) else spec

    def probe_with(self, *edits: Edit, of: int = 1) -> Probe | None:
        """A probe with further edits; None if it is invalid, not finite or out of time.

        of: number of probes that run side by side, of which this is one.
        """
        spec = self.edited(*edits)
        if spec is None or self.late:
            return None
        what = ", ".join(map(str, edits))
        self.watch.trying(what if of == 1 else f"{of} side by side: {what}")
        self.probes += 1
        try:
            tried = self.run_probe(spec)
        except InputError:  # torchjd may be missing
            return None
        return None if tried.not_finite or tried.cut else tried

    def accept(self, edits: Iterable[Edit], measured: Probe) -> None:
        """Keep these edits, of which `measured` is the probe."""
        self.edits += edits
        self.now = measured

    def offer(self, finding: Finding, measured: Probe) -> Finding:
        """The finding with its edits, which are kept; in words alone if they harm another task."""
        lost = [name for name in self.harmed(measured) if name not in finding.helped]
        if not lost:
            self.accept(finding.edits, measured)
            return finding
        changes = skill_changes(self.now, measured, [*finding.helped, *lost])
        words = f"{finding.remedy}, if what other tasks lose is worth it: {changes}"
        return replace(finding, remedy=words, edits=(), effect="", helped=())

    def best_edits(
        self,
        candidates: Iterable[tuple[Edit, ...]],
        tasks: Sequence[str],
        at_any_cost: bool = False,
    ) -> tuple[tuple[Edit, ...], Probe] | None:
        """The candidate that helps the tasks most, with its probe; None if no candidate helps.

        A candidate must help one of the tasks and harm none. at_any_cost: it may harm others, as
        happens when a task without gradient gets one; `offer` then decides. Candidates are compared
        by the tasks' skill over the probe and at its end.
        """
        helpful = self.helpful_edits(candidates, tasks)
        return self.best_of(helpful, tasks, at_any_cost)

    def best_of(
        self,
        helpful: Iterable[tuple[tuple[Edit, ...], Probe]],
        tasks: Sequence[str],
        at_any_cost: bool = False,
    ) -> tuple[tuple[Edit, ...], Probe] | None:
        """The best of edits that help the tasks; None if all harm others. See `best_edits`."""
        chosen = [each for each in helpful if at_any_cost or not self.harmed(each[1])]
        return max(chosen, key=lambda each: sum(_learned(each[1], t) for t in tasks), default=None)

    def helpful_edits(
        self, candidates: Iterable[tuple[Edit, ...]], tasks: Sequence[str]
    ) -> list[tuple[tuple[Edit, ...], Probe]]:
        """The candidates that help one of the tasks, whatever they do to others."""
        candidates = list(candidates)
        specs = [spec for edits in candidates if (spec := self.edited(*edits)) is not None]
        of = 1 if self.late else self.begin(specs[: PROBES - self.probes])
        tried = ((edits, self.probe_with(*edits, of=of)) for edits in candidates)
        return [(e, probe) for e, probe in tried if probe and self.helped(probe, tasks)]

    def helped(self, tried: Probe, tasks: Iterable[str]) -> tuple[str, ...]:
        """The tasks whose skill is surely higher in a probe, on a split, and on none lower.

        Beside a probe with values that are not finite, those that learn anything at all.
        """
        if self.now.not_finite:
            return tuple(t for t in tasks if tried.knows(t) and tried.knows(t, "train"))
        return tuple(
            t for t in tasks if is_risen(self.now, tried, t) and not is_fallen(self.now, tried, t)
        )

    def harmed(self, tried: Probe) -> list[str]:
        """The open tasks that had skill on a split and have surely less of it in a probe."""
        return [name for name in self.open_tasks if is_fallen(self.now, tried, name)]


def is_weak(probe: Probe, task: str) -> bool:
    """True if a task's skill on the validation split is small, or not above 0 by its error.

    Where that split cannot tell, the training split does.
    """
    skill = probe.measured(task) or probe.measured(task, "train")
    return skill is None or not (skill.low > 0 and skill.value > WEAK)


def is_risen(before: Probe, after: Probe, task: str) -> bool:
    """True if a task's skill on a split is higher by enough and by more than its error.

    A task that has skill on the validation split must gain there, and one that has none may not
    lose there: what it learns besides is learned by heart.
    """
    if _has_risen(before, after, task, "validation"):
        return True
    rise = after.rise(before, task)
    may_gain = rise is None or (rise.value >= 0 and not before.knows(task))
    return may_gain and _has_risen(before, after, task, "train")


def _has_risen(before: Probe, after: Probe, task: str, split: str) -> bool:
    rise = after.rise(before, task, split)
    least = GAIN
    if before.knows(task, split):
        least = max(WORTH * (1 - before.skill(task, split)), RISEN)
    return rise is not None and rise.value >= max(least, SURE * rise.error)


def is_fallen(before: Probe, after: Probe, task: str) -> bool:
    """True if a task had skill on a split, and has less of it by enough and by its error."""
    for split in ("validation", "train"):
        rise = after.rise(before, task, split)
        if rise is None or not before.knows(task, split):
            continue
        if rise.value < -max(FALLEN, HARM * rise.error):
            return True
    return False


def _learned(probe: Probe, task: str) -> float:
    """Skill over the probe and at its end, on both splits; it orders candidates."""
    trivial = probe.trivial(task)
    over = 1 - probe.mean(task) / trivial if trivial else 0.0
    return max(over, -10.0) + sum(max(probe.skill(task, s), -10.0) for s in ("train", "validation"))


def skill_changes(before: Probe, after: Probe, tasks: Iterable[str]) -> str:
    """The tasks' skills at the end of two probes on both splits, and the rise's error."""
    steps = after.evaluations[-1].step
    parts = [
        f"{task} {_change(before, after, task, 'validation')} (training "
        f"{_change(before, after, task, 'train')})"
        for task in tasks
    ]
    return f"validation skill after {steps} steps: {', '.join(parts)}"


def _change(before: Probe, after: Probe, task: str, split: str) -> str:
    rise = after.rise(before, task, split)
    if rise is None:
        return "not measurable"
    if before.not_finite:
        return f"not finite → {_percent(after.skill(task, split))}"
    return (
        f"{_percent(before.skill(task, split))} → {_percent(after.skill(task, split))} "
        f"± {_percent(rise.error)}"
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if abs(share) < 100 else f"{100 * share:.1g}%"


def remedy(edits: Iterable[Edit]) -> str:
    """The remedy that consists of edits, in words."""
    return "set " + ", ".join(map(str, edits))


def unit(probe: Probe, task: str) -> str:
    """The unit of a task's loss."""
    section = next(t for t in probe.spec.tasks if t.name == task)
    return loss_unit(section.loss.kind, section.unit)
