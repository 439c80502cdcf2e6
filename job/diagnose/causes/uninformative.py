"""Uninformative: a task that nothing else explains, and that does not learn alone either."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import GAIN, KNOWS, Case, Finding
from job.diagnose.probe import Probe
from job.spec.patch import Edit


def findings(case: Case, explained: set[str]) -> Iterator[Finding]:
    """Findings on stuck tasks without another finding, from a probe of each task alone.

    explained: tasks that other findings concern.
    """
    for name in [n for n in case.not_learning() if n not in explained]:
        if len(case.now.names) == 1 or (alone := _alone(case, name)) is None:
            continue
        trivial, loss = case.now.trivial(name), case.now.end(name)
        evidence = (
            f"its loss, {loss:.3g}, is no better than the trivial prediction's, {trivial:.3g}"
        )
        # Every task learns faster alone, so only one far from its trivial prediction is a finding.
        if alone.skill(name) > KNOWS and case.now.expected_skill(name) < -GAIN:
            evidence += (
                f"; trained alone it ends at {alone.end(name):.3g}: it does not learn beside the "
                f"others"
            )
            yield Finding("conflict", name, evidence, "give it a trunk, or a run, of its own")
        elif alone.skill(name) <= KNOWS:
            evidence += (
                f"; trained alone it ends at {alone.end(name):.3g}, and no tried edit lowers its "
                f"loss by {GAIN:.0%}"
            )
            remedy = "the features may hold nothing about this target: supply others"
            yield Finding("uninformative", name, evidence, remedy)


def _alone(case: Case, name: str) -> Probe | None:
    """A probe of the task without the others."""
    task = next(t for t in case.spec.tasks if t.name == name)
    return case.probe_with(
        Edit(("tasks",), [task.model_dump(mode="json")]),
        Edit(("balance",), {"kind": "fixed"}),
        Edit(("gates",), []),
        Edit(("train", "early_stop"), None),
        Edit(("checkpoint", "best_of"), None),
        Edit(("checkpoint", "best_metric"), None),
    )
