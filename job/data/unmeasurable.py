"""Gates on a metric that the labels of their split cannot give, known before any training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.errors import Fault
from job.spec import JobSpec, MetricGate
from job.spec.tasks import METRICS


def unmeasurable_gates(
    spec: JobSpec, labels: Mapping[str, Mapping[str, NDArray[Any]]]
) -> list[Fault]:
    """A fault for each gate whose metric has no value, whatever the network predicts.

    labels: by split, `train` and `validation`, and by task, as `fit` returns them.
    """
    faults = []
    for i, gate in enumerate(spec.gates):
        target = labels[gate.split].get(gate.task) if isinstance(gate, MetricGate) else None
        if not isinstance(gate, MetricGate) or target is None or _has(gate.metric, target):
            continue
        rule = f"it needs {METRICS[gate.metric].needs}, which the {gate.split} split lacks"
        remedy = "split in another way, or drop the gate"
        faults.append(Fault(f"$.gates[{i}].metric", f'"{gate.metric}"', rule, remedy))
    return faults


def _has(metric: str, target: NDArray[Any]) -> bool:
    """True if a metric of these labels [n, …, O] has a value, of one output at least."""
    if metric == "r2":
        return bool(np.nanmin(target) < np.nanmax(target))
    outputs = target.reshape(-1, target.shape[-1])
    ones, zeros = (outputs == 1).any(axis=0), (outputs == 0).any(axis=0)
    if metric == "auroc":
        return bool((ones & zeros).any())
    return metric not in ("recall", "average_precision") or bool(ones.any())
