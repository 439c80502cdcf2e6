"""Targets: they cannot be learned, or too easily."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from job.data.dataset import Dataset
from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.diagnose.neighbours import column_names, hidden_formula, rows_of
from job.diagnose.probe import SAMPLES as PROBED
from job.model.baselines import is_constant
from job.model.labels import is_complete, labelled
from job.model.losses import RANGES, TaskLoss, share_outside
from job.model.skill import LEAST_OTHERS
from job.spec import SkillGate, Task
from job.spec.patch import Edit
from job.train.alarms.of_training import OUTSIDE
from job.train.evaluate import evenly_spaced

LEAK = 0.999
"""Rank correlation of a feature with a target, above which the target leaks into the feature."""
COMMON = 0.95
"""Share of the most common class, above which always predicting it looks good."""
HARDLY = 0.1
"""Skill on the validation split, below which a task may know no more than the common class."""
SAMPLES = 4096
"""Training samples that are searched for a leak."""
FEWEST = 30
"""Training samples below which a correlation says nothing: no leak is reported."""


def findings(case: Case) -> Iterator[Finding]:
    """Findings on each task's training target; closes tasks that cannot be learned."""
    train = case.first.data.train
    chosen = evenly_spaced(len(train), SAMPLES)
    for k, task in enumerate(case.original.tasks):
        target = train.targets[task.name]
        finding = _constant(task, target) or _out_of_range(case, k, target)
        if finding is not None:
            case.closed.add(task.name)
        else:
            data = case.first.data
            leaks = (_leak(task, target[chosen], *_of_input(data, k, chosen)) for k in data.stats)
            finding = next(filter(None, leaks), None) or _sum_leak(task, data)
            finding = finding or _common(case, task, target)
        if finding is not None:
            yield finding


def _constant(task: Task, target: Tensor) -> Finding | None:
    """The finding on a target with an output that never changes."""
    flat = target.reshape(-1, 1) if task.loss.of_classes else target.flatten(0, -2)
    same = is_constant(flat)
    if not bool(same.any()):
        return None
    output = int(same.int().argmax())
    which = "" if bool(same.all()) else f" at output {output}"
    values = flat[labelled(flat)[:, output], output]
    found = f"is {values[0]:g}" if len(values) else "has no label"
    where = "all its labels of" if 0 < len(values) < len(flat) else "all"
    evidence = f"its target{which} {found} in {where} {len(target)} training samples"
    return Finding("targets", task.name, evidence, "supply a target that varies, or drop the task")


def _out_of_range(case: Case, k: int, target: Tensor) -> Finding | None:
    """The finding on targets outside the range of their activation."""
    task = case.original.tasks[k]
    if task.activation not in RANGES:
        return None
    loss = TaskLoss(task, partial=not is_complete(target))
    loss.fit(target)
    low, high = RANGES[task.activation]
    wanted = (target - loss.shift) / loss.scale
    share = share_outside(task.activation, wanted)
    if share < OUTSIDE:
        return None
    known = wanted[labelled(wanted)]
    evidence = (
        f"{share:.1%} of its targets lie outside [{low:g}, {high:g}], the range of its activation "
        f"{task.activation}: they reach from {known.min():.3g} to {known.max():.3g}"
    )
    edit = Edit(("tasks", k, "activation"), "identity")
    best = case.best_edits([(edit,)], [task.name], at_any_cost=True)
    if best is None:
        scaled = "scale the target into the activation's range"
        return Finding("targets", task.name, evidence, scaled)
    edits, after = best
    effect = skill_changes(case.now, after, [task.name])
    words = remedy(edits)
    finding = Finding("targets", task.name, evidence, words, edits, effect, (task.name,))
    return case.offer(finding, after)


def _leak(
    task: Task,
    target: Tensor,
    features: Tensor,
    real: Tensor | None = None,
    name: Callable[[int], str] = "feature {}".format,
) -> Finding | None:
    """The finding on a feature with the same ranks as the target; None if samples are few.

    A step task's target is compared at the same step; a window task's with the feature's mean over
    the window, its first and its last step. features: [n, T, F]. real: [n, T] 0 at padding, else 1.
    name: of a feature.
    """
    real = torch.ones(features.shape[:2]) if real is None else real
    wanted = torch.where(labelled(target), target.double(), torch.nan)
    if task.loss.of_classes:
        wanted = wanted.unsqueeze(-1)
    whole = wanted.reshape(len(wanted), -1).isfinite()
    whole = whole.any(1) if task.level == "step" else whole.all(1)
    wanted, features, real = wanted[whole], features[whole], real[whole]
    if len(wanted) < FEWEST:
        return None
    if task.level == "step":
        x = features.expand(-1, wanted.shape[1], -1).flatten(0, 1)
        y = wanted.flatten(0, 1)
        whole = y.isfinite().all(1)
        x, y = x[whole], y[whole]
        some = evenly_spaced(len(x), SAMPLES)
        x, y = x[some], y[some]
        where = "at the same step"
    else:
        x = torch.cat(_summaries(features, real), 1)
        y, where = wanted, "in a window's mean, at its first or its last step"
    most, which = _correlations(_ranks(x.double()), _ranks(y)).abs().amax(1).max(0)
    if most < LEAK:
        return None
    return Finding(
        "targets",
        task.name,
        f"{name(int(which) % features.shape[2])} has a rank correlation of {most:.4f} with it "
        f"{where}: sorted by the one, samples are sorted by the other, forwards or backwards. So "
        f"the feature gives the target away; where that is not known yet, the skill may be gone",
        "remove the feature from the data: no edit of the spec does that",
    )


def _sum_leak(task: Task, data: Dataset) -> Finding | None:
    """The finding on features that give a number away together, and not one by one."""
    if task.loss.of_classes or task.level == "step" or (rows := rows_of(data, task)) is None:
        return None
    if (found := hidden_formula(rows["train"], rows["validation"])) is None:
        return None
    names, every = [], column_names(data)
    for column, part in zip(found.columns, found.parts, strict=True):
        names.append(f"{every[column]} ({part:.2g})")
    return Finding(
        "targets",
        task.name,
        f"a weighted sum of {len(names)} features is the target: it tells {found.explained:.3%} of "
        f"its variance on the validation split, and the best of them alone {found.alone:.1%}. They "
        f"are {', '.join(names)}; in brackets, what each adds to the sum, in standard deviations "
        f"of the target. Most of that cancels, which shows that the features were made from the "
        f"target: they give it away",
        "remove these features from the data: no edit of the spec does that",
    )


def _of_input(
    data: Dataset, of: str, chosen: Tensor
) -> tuple[Tensor, Tensor | None, Callable[[int], str]]:
    """What `_leak` needs of some training samples: an input's features, real positions, names."""
    features, real = data.train.inputs[of][chosen].float(), data.train.real
    padded = real is not None and real.shape[1:] == features.shape[1:-1]
    kept = real[chosen].flatten(1).float() if real is not None and padded else None
    return features.flatten(1, -2), kept, lambda i: data.feature_name(of, i)


def _summaries(features: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean, the first and the last [n, F] of features [n, P, F] at real [n, P] positions."""
    mean = (features * real.unsqueeze(-1)).sum(1) / real.sum(1, keepdim=True)
    rows, last = torch.arange(len(real)), real.shape[1] - 1 - real.flip(1).argmax(1)
    return mean, features[rows, real.argmax(1)], features[rows, last]


def _ranks(values: Tensor) -> Tensor:
    """The rank of each value [n, F] in its column; equal values share their mean rank."""
    columns = values.T.contiguous()
    ordered = columns.sort(1).values
    below = torch.searchsorted(ordered, columns)
    up_to = torch.searchsorted(ordered, columns, right=True)
    return ((below + up_to - 1) / 2).T.double()


def _correlations(x: Tensor, y: Tensor) -> Tensor:
    """Correlations [F, O] of the columns of x [n, F] and y [n, O]; 0 if one is constant."""
    x, y = x - x.mean(0), y - y.mean(0)
    size = x.norm(dim=0)[:, None] * y.norm(dim=0)
    return torch.where(size > 0, (x.T @ y) / size, 0.0)


def _common(case: Case, task: Task, target: Tensor) -> Finding | None:
    """The finding on a task whose other classes are few: not learned, or too few to tell."""
    if not (task.loss.of_classes or task.loss.kind == "binary_cross_entropy"):
        return None
    labels = target[labelled(target)]
    if bool((labels != labels.round()).any()):  # shares in place of classes
        return None
    counts = torch.bincount(labels.long())
    share = counts.max().item() / counts.sum().item()
    if share < COMMON:
        return None
    rare = int(counts.sum() - counts.max()), _others(case, task, int(counts.argmax()))
    if rare[1] is not None and rare[1] < LEAST_OTHERS:
        evidence = (
            f"one class is right for {share:.1%} of its labels; of all others together there are "
            f"{rare[0]} in the training split and {rare[1]} in the validation split. {rare[1]} "
            f"cannot tell whether they are learned: at least {LEAST_OTHERS} are needed"
        )
        more = (
            "collect more of the rare ones, and see that enough of them are held out (data.split, "
            "data.validation); until then no score of this task means anything for them"
        )
        return Finding("targets", task.name, evidence, more)
    if case.first.skill(task.name, "validation") > HARDLY:
        return None
    evidence = (
        f"one class is right for {share:.1%} of its labels: always predicting it has a loss of "
        f"{case.first.baselines[task.name].constant['train']:.3g}; on the validation split the "
        f"task's loss at the end is {case.first.end(task.name, 'validation'):.3g}"
    )
    resample = "weigh its classes (class_weight), or resample the data"
    if any(isinstance(g, SkillGate) and g.task == task.name for g in case.original.gates):
        return Finding("targets", task.name, evidence, resample)
    wanted = {"task": task.name, "skill": 0.0, "by_epoch": case.original.train.epochs}
    gate = Edit(("gates", -1), wanted)
    case.accept([gate], case.now)  # a probe has no gates
    resample += f"; set {gate}, so that a run that knows no more than that fails"
    return Finding("targets", task.name, evidence, resample, (gate,))


def _others(case: Case, task: Task, common: int) -> int | None:
    """Validation labels of another class; None if a probe sees only a part of that split."""
    validation = case.first.data.validation
    if len(validation) >= PROBED:
        return None
    target = validation.targets[task.name]
    return int((target[labelled(target)] != common).sum())
