"""The optimizers: torch's, none of whose updates is applied if a flag on the device forbids it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from job.without_compiler import without_compiler

Group = dict[str, Any]


Adam = without_compiler(torch.optim.Adam)
AdamW = without_compiler(torch.optim.AdamW)
Sgd = without_compiler(torch.optim.SGD)
Muon = without_compiler(torch.optim.Muon)


@without_compiler
class MuonAndAdamW(Optimizer):
    """Muon for the groups that say so, AdamW for the others; one list of groups, one state."""

    found_inf: Tensor

    def __init__(
        self,
        groups: list[Group],
        momentum: float,
        nesterov: bool,
        betas: tuple[float, float],
    ) -> None:
        """groups: with `lr`, `weight_decay`, and `muon`, whether Muon updates these matrices."""
        self.muon = Muon(
            [g for g in groups if g["muon"]],
            momentum=momentum,
            nesterov=nesterov,
            adjust_lr_fn="match_rms_adamw",
        )
        others = [g for g in groups if not g["muon"]]
        self.adamw = AdamW(others or [{"params": []}], betas=betas, fused=True)
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        """Let both see this optimizer's groups and state."""
        for part, muon in ((self.muon, True), (self.adamw, False)):
            part.param_groups = [g for g in self.param_groups if g["muon"] == muon]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        """Update all parameters, unless the flag `found_inf` is set.

        Muon reads no flag: what it has changed is put back on the device, without a wait for it.
        """
        matrices = [p for group in self.muon.param_groups for p in group["params"]]
        changed = [t for p in matrices for t in (p.data, *self.state[p].values())]
        before = [t.clone() for t in changed]
        self.muon.step()
        for now, old in zip(changed, before, strict=True):
            now.copy_(torch.where(self.found_inf > 0, old, now))
        self.adamw.found_inf = self.found_inf  # type: ignore[attr-defined]  # read by fused ones
        self.adamw.step()
