"""Twin units: a layer whose units all start alike, so that it is one unit however wide it is."""

from __future__ import annotations

from collections.abc import Iterator

from job.diagnose.case import Case, Finding
from job.diagnose.causes.network.place import listed, place


def findings(case: Case) -> Iterator[Finding]:
    """A finding if all units of a layer start with the same weights; closes the weak tasks.

    Weights may start at 0 on purpose, as those of a last layer, which part in training: they are
    named only if they are still alike at the end of the probe.
    """
    end = {each.name for each in case.first.at_end.twins}
    twins = [each for each in case.at_start.twins if not each.zero or each.name in end]
    if not twins or not case.weak():
        return
    first = twins[0]
    value = "0" if first.zero else "the same weights"
    evidence = (
        f"all {first.units} units of {listed([each.name for each in twins])} start with {value}: "
        f"as they read the same and begin alike, they get the same gradient and stay nearly one "
        f"unit, however wide the layer is"
    )
    remedy = (
        f"start the weights of {place(case, first.name)} at random, as torch does by itself: "
        f"remove what sets all of them to one value"
    )
    case.closed.update(case.weak())
    yield Finding("initialization", None, evidence, remedy)
