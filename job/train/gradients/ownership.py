"""Which parameters of a network learn from which task, and by which way: through z or past it.

    parameters of the trunk ─▶ parts of z ─▶ heads, with their own parameters ─▶ outputs
                    └────────── a leak ──────▲

Nothing of this is declared. One batch goes through the network, and autograd is asked what each
part of z and each task's outputs depend on. What a step does with a parameter follows from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from job.distributed.ranks import ALONE, Ranks
from job.errors import Fault, InputError
from job.model.network import Inputs, Network, Z, parts
from job.model.undisturbed import undisturbed
from job.train.gradients.forks import rebuilt

Names = frozenset[str]
"""Names of parameters."""


@dataclass(frozen=True)
class Ownership:
    """What one batch tells about a network. Parameters that do not train are left out."""

    tasks: tuple[str, ...]
    parameters: tuple[str, ...]
    """Names, in the order of registration; as in every list of them here."""
    cut: bool
    """Whether there is a z. Without one, `parts` is empty, and `past` has all parameters."""
    parts: Mapping[int, Names]
    """What each part of z depends on, by its place among `job.model.network.parts`: of those with
    a gradient. If none has one, the trunk is frozen: then the parts of floats."""
    reads: tuple[frozenset[int], ...]
    """By task, the parts that its outputs depend on."""
    past: tuple[Names, ...]
    """By task, the parameters that its outputs depend on in another way than through z."""

    @property
    def at(self) -> Literal["z", "parameters"]:
        """Where the tasks' gradients are compared: at z, or at the parameters that they share."""
        return "z" if self.obstacle is None else "parameters"

    @property
    def trunk(self) -> list[str]:
        """Parameters of the trunk: some part of z depends on them. Without a z, the shared ones."""
        return self._ordered(_union(self.parts.values())) if self.cut else self.shared

    @property
    def shared(self) -> list[str]:
        """Parameters that at least two tasks reach, in whatever way."""
        reached = [self.reached(k) for k in range(len(self.tasks))]
        return [name for name in self.parameters if sum(name in each for each in reached) > 1]

    @property
    def below(self) -> list[str]:
        """Parameters that get the tasks' combined gradient from where it is measured."""
        return self.trunk if self.at == "z" else self.shared

    @property
    def of_tasks(self) -> list[list[str]]:
        """By task, the parameters that it alone reaches, and not from below z."""
        rest = set(self.parameters) - set(self.below) - set(self.shared)
        return [self._ordered(self.reached(k) & rest) for k in range(len(self.tasks))]

    @property
    def of_several(self) -> list[str]:
        """Parameters that several heads share, above z."""
        return self._ordered(set(self.shared) - set(self.below))

    @property
    def unreached(self) -> list[str]:
        """Parameters that no task reaches."""
        reached = _union(self.reached(k) for k in range(len(self.tasks)))
        return [name for name in self.parameters if name not in reached]

    def reached(self, task: int) -> Names:
        """The parameters that a task's outputs depend on."""
        return self.past[task].union(*(self.parts[i] for i in self.reads[task]))

    @property
    def blind(self) -> list[tuple[str, str]]:
        """Pairs of tasks that share parameters, but read no common part of z."""
        return [
            (self.tasks[s], self.tasks[t])
            for s, t in combinations(range(len(self.tasks)), 2)
            if not self.reads[s] & self.reads[t] and self.reached(s) & self.reached(t)
        ]

    @property
    def obstacle(self) -> str | None:
        """Why gradients at z do not tell what the tasks do to each other; None if they do."""
        if len(self.tasks) == 1:
            return None
        if not self.cut:
            return "the network has no shared representation: it defines forward alone"
        leaks = self._ordered(_union(self.parts.values()) & _union(self.past))
        if leaks:
            return f"tasks reach {_some(leaks)} through the shared representation and past it too"
        if self.blind:
            one, other = self.blind[0]
            return (
                f"{one} and {other} read no common part of the shared representation, but share "
                f"parameters"
            )
        if self.shared and not self.trunk:
            return "no parameter of the trunk trains, but heads share some"
        return None

    @property
    def harmony(self) -> str | None:
        """Why tasks cannot conflict at all; None if they can."""
        if len(self.tasks) == 1 or self.shared:
            return None
        if self.cut and not any(self.parts.values()):
            return "no parameter of the trunk trains"
        return "no two tasks share a parameter that trains"

    @property
    def readers(self) -> dict[int, list[int]]:
        """By part of z, the tasks that read it."""
        return {i: [k for k, read in enumerate(self.reads) if i in read] for i in self.parts}

    def _ordered(self, names: AbstractSet[str]) -> list[str]:
        return [name for name in self.parameters if name in names]


def _union(each: Iterable[Names]) -> Names:
    return frozenset().union(*each)


def _some(names: Sequence[str]) -> str:
    """Up to three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def ownership(model: Network, inputs: Inputs, ranks: Ranks = ALONE) -> Ownership:
    """What a batch tells about a network, which stays as it was, like the generators.

    Ranks get what rank 0 has measured, as data may decide what a network computes.

    Raises InputError if no task reaches some parameter, if a task reaches none, or if a head
    changes z in place.
    """
    known = ranks.broadcast(_measure(model, inputs) if ranks.rank == 0 else None)
    assert known is not None
    rule, remedy = "a task needs something to train", "freeze less"
    untrained = [task for k, task in enumerate(known.tasks) if not known.reached(k)]
    if untrained:
        found = [
            f"that all parameters which the task {task} reaches are frozen" for task in untrained
        ]
        raise InputError([Fault(model.place, each, rule, remedy) for each in found])
    if known.unreached:
        raise InputError(
            [
                Fault(
                    model.place,
                    f"the parameter {name.removeprefix('own.')}",
                    "no task's outputs depend on it, so nothing would train it",
                    "use it, remove it, or freeze it (requires_grad = False)",
                )
                for name in known.unreached
            ]
        )
    return known


def unforeseen(
    known: Ownership, model: Network, inputs: Inputs, ranks: Ranks = ALONE
) -> dict[str, list[str]]:
    """By task, parameters that its outputs depend on in this batch, against what was known.

    In another way than known, too: through z or past it. The network stays as it was.
    """
    now = ranks.broadcast(_measure(model, inputs) if ranks.rank == 0 else None)
    assert now is not None
    more = {}
    for k, task in enumerate(known.tasks):
        past = now.past[k] - known.past[k]
        through = [
            now.parts[i] - known.parts.get(i, frozenset()) for i in now.reads[k] & {*now.parts}
        ]
        if names := now._ordered(past.union(*through)):
            more[task] = names
    return more


def has_cut(model: Network) -> bool:
    """True if the network has a z; false if its class defines `forward` alone."""
    return type(model).represent is not Network.represent


def _measure(model: Network, inputs: Inputs) -> Ownership:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with undisturbed(model, training=True), model.blamed(), torch.enable_grad():
        tasks, names = tuple(model.tasks), tuple(named)
        if not has_cut(model):
            past = tuple(_dependence(y, named) for y in model(inputs))
            return Ownership(tasks, names, False, {}, (frozenset(),) * len(tasks), past)
        z = model.represent(inputs)
        tensors = _tensors(z)
        floats = {i: part for i, part in enumerate(tensors) if part.is_floating_point()}
        measured = {i: part for i, part in floats.items() if part.requires_grad} or floats
        below = {i: _dependence(part, named) for i, part in measured.items()}
        reads, past_z = [], []
        for task in tasks:
            # Views, as in a step: what would change z in place fails here.
            leaves = {i: part.detach()[None].requires_grad_() for i, part in measured.items()}
            views = {i: leaf.unbind()[0] for i, leaf in leaves.items()}
            mine = [views.get(i, part.detach()) for i, part in enumerate(tensors)]
            versions = [part._version for part in mine]
            outputs = _read(model, task, rebuilt(z, iter(mine)), inputs)
            if versions != [part._version for part in mine]:
                raise _in_place(model.place, task)
            found = _dependence(outputs, {**named, **{str(i): leaf for i, leaf in leaves.items()}})
            reads.append(frozenset(i for i in leaves if str(i) in found))
            past_z.append(found & frozenset(named))
    return Ownership(tasks, names, True, below, tuple(reads), tuple(past_z))


def _tensors(z: Z) -> list[Tensor]:
    """The tensors of z. Raises InputError if there is something else in it."""
    try:
        found = parts(z)
    except (TypeError, AttributeError):
        found = []
    if not any(part.is_floating_point() for part in found):
        rule = "z is a tensor, or a tuple or dict of tensors, some of them of floats"
        remedy = "return such from represent, or define forward alone, which has no z"
        raise InputError([Fault("$.model", f"represent returns {type(z).__name__}", rule, remedy)])
    return found


def _read(model: Network, task: str, z: Z, inputs: Inputs) -> Tensor:
    """The head's outputs. Raises InputError if it changes z in place."""
    try:
        return model.read(task, z, inputs)
    except (RuntimeError, InputError) as error:
        # A network of one's own comes with an error that already names the line.
        named = isinstance(error, InputError)
        cause = str(error.__cause__ if named else error)
        if "inplace" not in cause and "in-place" not in cause:
            raise
        where = error.faults[0].where if isinstance(error, InputError) else model.place
        raise _in_place(where, task) from error


def _in_place(where: str, task: str) -> InputError:
    rule = "every task must read the same z, so a head must not change it in place"
    remedy = "use operations that return a new tensor, such as relu(z), not relu_(z)"
    return InputError([Fault(where, f"the head of the task {task} changes z", rule, remedy)])


def _dependence(value: Tensor, on: Mapping[str, Tensor]) -> Names:
    """The names of the tensors that a value depends on."""
    if not value.requires_grad:
        return frozenset()
    grads = torch.autograd.grad(
        value.sum(), list(on.values()), retain_graph=True, allow_unused=True
    )
    return frozenset(name for name, grad in zip(on, grads, strict=True) if grad is not None)
