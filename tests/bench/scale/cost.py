"""The cost of an act in this process: seconds of the processor, and the most memory it adds."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

Costs = dict[str, float]
"""By unit: `seconds` of the processor, `memory` in bytes, `bytes` stored, or a `count`."""


def cost(act: Callable[[], object], rounds: int, times: int = 1) -> Costs:
    """Medians over rounds of one act, which each round carries out some times."""
    seconds, memory = [], []
    for _ in range(rounds):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
        before, begun = _memory("VmRSS"), time.process_time()
        for _ in range(times):
            act()
        seconds.append((time.process_time() - begun) / times)
        memory.append(_memory("VmHWM") - before)
    # The first round alone takes new pages: later ones reuse what it has freed.
    return {"seconds": statistics.median(seconds), "memory": max(memory)}


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(name))
