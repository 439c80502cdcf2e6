"""BatchNorm: batches so small that the trained network is not the one that is evaluated."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding, remedy, skill_changes
from job.diagnose.causes.network.place import listed, place
from job.spec.patch import Edit

APART = 0.7
"""Difference of the outputs between both kinds of statistics, in their standard deviations, from
which on they are those of two networks."""
BATCHES = (16, 32, 64)
"""Sizes of a batch that are tried."""


def findings(case: Case) -> Iterator[Finding]:
    """A finding if outputs in batches of the run are far from those in evaluation."""
    norms, size = case.now.at_end.batch_norms, case.spec.train.batch_size
    far = {name: gap for name, gap in norms.apart.items() if gap >= APART}
    far = {name: gap for name, gap in far.items() if name in case.open_tasks}
    if not far:
        return
    task = max(far, key=lambda name: far[name])
    by_batch, by_average = norms.losses[task]
    evidence = (
        f"{listed(norms.names)} normalizes by the mean and variance of each batch of {size} while "
        f"it trains, and by their running averages in evaluation. The two differ so much that the "
        f"outputs of {task} are off by {far[task]:.2g} of their own standard deviation: its loss "
        f"on the same training samples is {by_batch:.3g} by the batches and {by_average:.3g} by "
        f"the averages. The network that is evaluated is not the one that was trained"
    )
    larger = [b for b in BATCHES if 2 * size <= b <= len(case.first.data.train) // 2]
    best = case.best_edits([(Edit(("train", "batch_size"), b),) for b in larger], case.open_tasks)
    if best is None:
        words = (
            f"in place of {place(case, norms.names[0])}, use a LayerNorm or GroupNorm, which looks "
            f"at one sample alone; or train in larger batches (train.batch_size)"
        )
        yield Finding("batch_norm", None, evidence, words)
        return
    edits, after = best
    helped = case.helped(after, case.open_tasks)
    effect = skill_changes(case.now, after, helped)
    case.accept(edits, after)
    yield Finding("batch_norm", None, evidence, remedy(edits), edits, effect, helped)
