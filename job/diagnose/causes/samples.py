"""Faults of the samples: copies, outliers, and labels that do not go with their features.

No edit of a spec mends the data, so none is offered. What the labels of a split have to do with
its features is asked of predictions without a network (see job.diagnose.neighbours).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from job.data.dataset import Dataset
from job.diagnose.case import SURE, Case, Finding
from job.diagnose.causes.overfitting import is_memorized
from job.diagnose.neighbours import Rows, contradiction, rows_of, skill_across, skill_within
from job.model.labels import labelled
from job.model.skill import Skill
from job.spec import Task
from job.train.alarms.of_data import copied_samples, feature_digests, shifted_targets

CLEAR = 0.1
"""Skill that is no accident, if it is also above 0 by its error."""
ALONE = 20.0
"""Distance of an outlier from the median, in standard deviations of the middle half."""
WEIGHT = 0.5
"""Part of the squared deviations that outliers have, above which they decide what is learned."""
FEW = 0.02
"""Part of the labels that are outliers, at most; more are a heavy tail."""
CONTRADICTED = 0.1
"""Part of the training samples that have the features of another and not its target."""
SIMPLE = "a simple prediction without a network (from similar samples and a linear map)"
ROWS = (-2, -1, 1, 2)
"""Numbers of rows by which targets may be shifted against features."""
APART = 1.0
"""Standard deviations between a feature's means in two splits that are not alike."""
ALIKE = (
    "make the splits alike (data.split), or find out what changed between them; no edit of the "
    "training replaces that"
)


def findings(case: Case) -> Iterator[Finding]:
    """Findings on the samples of each task; on the order of their labels if it is weak."""
    data = case.first.data
    found, remedy = copied_samples(data)
    if found and not _repeats_itself(data):
        yield Finding("copied_samples", None, found, remedy)
    for task in case.original.tasks:
        if task.name not in case.open_tasks:
            continue
        fault = _outliers(task, data) or contradicting(task, data)
        if fault is None and task.name in case.weak():
            fault = _order(task, data) or _by_heart(case, task)
        if fault is not None:
            case.closed.add(task.name)
            if fault.mechanism == "split_shift" and _features_differ(data, task):
                case.closed.update(case.open_tasks)  # they read the same features
            yield fault


def _repeats_itself(data: Dataset) -> bool:
    """True if samples of codes alone are alike inside the training split about as often.

    Few codes, or letters of a text, repeat honestly; numbers do not.
    """
    if data.stats:
        return False
    train, held_out = feature_digests(data.train), feature_digests(data.validation)
    count = Counter(train)
    inside = sum(count[each] > 1 for each in train) / len(train)
    across = sum(each in count for each in held_out) / len(held_out)
    return inside > across / 2


def _outliers(task: Task, data: Dataset) -> Finding | None:
    """The finding on a few targets so far off that a squared error hardly sees the others."""
    target = data.train.targets[task.name]
    if task.loss.of_classes or task.loss.kind == "binary_cross_entropy":
        return None
    known = target[labelled(target).reshape(target.shape)].double()
    low, middle, high = _quartiles(known)
    spread = (high - low) / 1.349
    far = (known - middle).abs()
    off = far > ALONE * spread
    part = float(far[off].square().sum() / far.square().sum().clamp(min=1e-300))
    count = int(off.sum())
    if spread <= 0 or not count or count > max(FEW * len(known), 1) or part < WEIGHT:
        return None
    evidence = (
        f"{count} of {len(known):,} training labels lie far from all others: {ALONE:g} to "
        f"{far.max() / spread:.3g} times the standard deviation of the middle half away from the "
        f"median, {middle:.4g}. {part:.0%} of all squared distances from it is theirs, so a "
        f"squared error hardly sees the others"
    )
    remedy = "check them, and correct or drop them; no edit of the training replaces that"
    return Finding("outliers", task.name, evidence, remedy)


def _quartiles(values: Tensor) -> tuple[float, float, float]:
    ordered = values.flatten().sort().values
    low, middle, high = (float(ordered[int(q * (len(ordered) - 1))]) for q in (0.25, 0.5, 0.75))
    return low, middle, high


def contradicting(task: Task, data: Dataset) -> Finding | None:
    """The finding on samples with the same features and contradicting targets.

    Repeated features alone are no evidence: a table of few categories has them honestly, and their
    targets differ as the categories leave it open. They contradict each other only if they differ
    more than the targets of samples with merely similar features.
    """
    if data.train.overlap > 1 or (rows := rows_of(data, task)) is None:
        return None
    digests, train = feature_digests(data.train), rows["train"]
    numbers = {digest: i for i, digest in enumerate(dict.fromkeys(digests))}
    same = torch.tensor([numbers[digests[i]] for i in train.places.tolist()])
    excess = contradiction(train, same)
    if excess is None or not excess.value > max(CLEAR, SURE * excess.error):
        return None
    count = _contradicted(digests, data.train.targets[task.name])
    if count <= CONTRADICTED * len(data.train):
        return None
    evidence = (
        f"{count} of {len(data.train)} training samples have exactly the features of another one "
        f"and a different target. Samples with merely similar features have targets that are "
        f"closer to each other: their squared difference is {excess.value:.0%} ± "
        f"{excess.error:.0%} smaller"
    )
    remedy = "check the labels, or add the features that tell these samples apart"
    return Finding("wrong_labels", task.name, evidence, remedy)


def _contradicted(digests: list[bytes], target: Tensor) -> int:
    """The number of samples with the features of another one and not its target."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, digest in enumerate(digests):
        groups[digest].append(i)
    rows = target.reshape(len(digests), -1)
    return sum(
        len(group)
        for group in groups.values()
        if len(group) > 1 and not bool((rows[group] == rows[group[0]]).all())
    )


def _order(task: Task, data: Dataset) -> Finding | None:
    """The finding on labels in other rows than their features, or on splits that differ."""
    if max(data.train.overlap, data.validation.overlap) > 1:
        return None
    if (rows := rows_of(data, task)) is None:
        return None
    train, held_out = rows["train"], rows["validation"]
    inside, there = skill_within(train), skill_within(held_out)
    if not _is_clear(inside):
        return _shifted(task, train, inside) or _wrong(
            task, "training", inside, "validation", there
        )
    across = skill_across(train, held_out)
    if not _is_below(across, inside):
        return None
    if _is_clear(there) and _is_below(across, there):
        return Finding(
            "split_shift",
            task.name,
            f"{SIMPLE} has a skill of {_words(inside)} inside the training split and of "
            f"{_words(there)} inside the validation split. But what it learns in training gives "
            f"{_words(across)} on validation: {_difference(task, data, train, held_out)}",
            ALIKE,
        )
    if shift := shifted_targets(
        task, data.train.targets[task.name], data.validation.targets[task.name]
    ):
        evidence = f"its targets differ strongly between the splits: {shift}"
        return Finding("split_shift", task.name, evidence, "make the splits alike (data.split)")
    if (most := _distance(train, held_out)) > APART:
        evidence = (
            f"{SIMPLE} has a skill of {_words(inside)} inside the training split; what it learns "
            f"there gives {_words(across)} on validation, where {_of_features(most)}"
        )
        return Finding("split_shift", task.name, evidence, ALIKE)
    return _wrong(task, "validation", there, "training", inside)


def _by_heart(case: Case, task: Task) -> Finding | None:
    """The finding on labels that only a memory can learn: nothing simple tells them in any split.

    It stands before settings and overfitting, of which no edit brings knowledge that is not there.
    None if no task knows anything: then the fault may be one of the whole run.
    """
    data, now = case.first.data, case.now
    if not any(map(now.knows, now.names)) or not is_memorized(now, task.name):
        return None
    if max(data.train.overlap, data.validation.overlap) > 1:
        return None
    if (rows := rows_of(data, task)) is None:
        return None
    inside, there = skill_within(rows["train"]), skill_within(rows["validation"])
    if not (_is_surely_small(inside) and _is_surely_small(there)):
        return None
    return Finding(
        "uninformative",
        task.name,
        f"its skill is {now.skill(task.name):.0%} on the training split and "
        f"{now.skill(task.name, 'validation'):.0%} on the validation split: it is learned by "
        f"heart, and {SIMPLE} has a skill of {_words(inside)} inside the training split and of "
        f"{_words(there)} inside the validation split",
        "check that each label stands in the row of its features. If it does, the features may "
        "hold nothing about the target: supply others",
    )


def _is_surely_small(skill: Skill | None) -> bool:
    return skill is not None and skill.value + 2 * skill.error < CLEAR


def _shifted(task: Task, rows: Rows, inside: Skill | None) -> Finding | None:
    """The finding on targets that go with the features some rows before or after."""
    best = max(
        ((skill, by) for by in ROWS if (skill := skill_within(rows, by)) is not None),
        key=lambda each: each[0].value,
        default=None,
    )
    if best is None or not _is_clear(best[0]) or not _is_below(inside, best[0]):
        return None
    skill, by = best
    where = f"{abs(by)} row{'s' if abs(by) > 1 else ''} {'further on' if by > 0 else 'before'}"
    return Finding(
        "shifted_rows",
        task.name,
        f"{SIMPLE} knows nothing of the targets in their own rows, and has a skill of "
        f"{_words(skill)} on those {where}",
        "move the targets back to the rows of their features, where the data is made",
    )


def _wrong(
    task: Task, split: str, skill: Skill | None, other: str, there: Skill | None
) -> Finding | None:
    """The finding on labels of one split that have nothing to do with the features."""
    if not _is_clear(there) or not _is_below(skill, there):
        return None
    return Finding(
        "wrong_labels",
        task.name,
        f"{SIMPLE} has a skill of {_words(there)} inside the {other} split and of "
        f"{_words(skill)} inside the {split} split, as if the labels there were shuffled",
        f"check how features and labels of the {split} split are brought together",
    )


def _is_clear(skill: Skill | None) -> bool:
    return skill is not None and skill.low > 0 and skill.value > CLEAR


def _is_below(skill: Skill | None, other: Skill | None) -> bool:
    """True if a skill is surely lower than another one, and no clear one itself."""
    if skill is None or other is None or _is_clear(skill):
        return False
    return skill.value + 2 * skill.error < other.low


def _words(skill: Skill | None) -> str:
    return "none" if skill is None else f"{max(skill.value, -9.99):.0%} ± {skill.error:.0%}"


def _difference(task: Task, data: Dataset, train: Rows, held_out: Rows) -> str:
    """Where the splits differ most: in the targets, in a feature, or in what connects them."""
    targets = (data.train.targets[task.name], data.validation.targets[task.name])
    if shift := shifted_targets(task, *targets):
        return f"its targets differ: {shift}"
    if (most := _distance(train, held_out)) > APART:
        return _of_features(most)
    return "the features are alike, and what they say of the target is not"


def _of_features(distance: float) -> str:
    return f"the mean of one of its features differs by {distance:.2g} standard deviations"


def _features_differ(data: Dataset, task: Task) -> bool:
    rows = rows_of(data, task)
    return rows is not None and _distance(rows["train"], rows["validation"]) > APART


def _distance(train: Rows, held_out: Rows) -> float:
    """Largest difference of a feature's means between the splits, in standard deviations."""
    distance = (train.x.mean(0) - held_out.x.mean(0)).abs() / train.x.std(0).clamp(min=1e-9)
    return float(distance.max())
