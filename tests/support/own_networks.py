"""Network files as strangers write them, for the tasks of tests.support.tiny_job: sound and faulty.

`faulty` edits a sound one; what stands behind it is the one line that says what is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.tiny_job import write

MLP = """\
from torch import nn


class Perceptron(nn.Module):
    def __init__(self, tasks, inputs, width):
        super().__init__()
        steps, features = inputs["features"].shape
        self.steps = steps
        self.first = nn.Linear(steps * features, width)
        self.second = nn.Linear(width, steps * width)
        self.heads = nn.ModuleDict({"of_" + t.name: nn.Linear(width, t.outputs) for t in tasks})
        self.pooled = [t.name for t in tasks if t.level == "window"]

    def trunk(self, inputs):
        x = self.first(inputs["features"].flatten(1)).relu()
        return self.second(x).unflatten(1, (self.steps, -1))

    def head(self, task, z, inputs):
        z = z.mean(1) if task in self.pooled else z
        return self.heads["of_" + task](z)


def build(tasks, inputs, width=8):
    return Perceptron(tasks, inputs, width)
"""
CONV = """\
import torch
from torch import nn

import blocks


class Trunk(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.layers = nn.Sequential(blocks.block(features, 8), blocks.block(8, 8))
        self.dropout = nn.Dropout(0.2)

    def forward(self, inputs):
        z = self.layers(inputs["features"].transpose(1, 2)).transpose(1, 2)
        return {"all": self.dropout(z), "last": z[:, -1]}


class Head(nn.Module):
    def __init__(self, tasks):
        super().__init__()
        of = {t.name: nn.Linear(8, t.outputs) for t in tasks}
        self.of, self.wide = nn.ModuleDict(of), [t.name for t in tasks if t.positions]

    def forward(self, task, z, inputs):
        last = z["last"][:, None].expand_as(z["all"])
        z = z["all"] + last if task in self.wide else z["all"].mean(1) + z["last"]
        return self.of[task](torch.tanh(z))


class Network(nn.Module):
    def __init__(self, tasks, inputs):
        super().__init__()
        self.trunk, self.head = Trunk(inputs["features"].shape[-1]), Head(tasks)

    def start_at(self, task, outputs):
        self.head.of[task].bias.data.copy_(outputs)


make = Network
"""
BLOCKS = """\
from torch import nn


def block(before, after):
    return nn.Sequential(nn.Conv1d(before, after, 3, padding=1), nn.BatchNorm1d(after), nn.ReLU())
"""
"""A file beside CONV's, which it imports."""
FORWARD = """\
import torch
from torch import nn


class Whole(nn.Module):
    def __init__(self, tasks):
        super().__init__()
        self.tasks = tasks
        self.gru = nn.GRU(3, 8, batch_first=True)
        self.out = nn.Linear(8, sum(t.outputs for t in tasks))

    def forward(self, inputs):
        y = self.out(self.gru(inputs["features"])[0]).split([t.outputs for t in self.tasks], -1)
        each = zip(self.tasks, y)
        return {t.name: part if t.positions else part.mean(1) for t, part in each}


def build(tasks, inputs):
    return Whole(tasks)
"""
SOUND: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": (MLP, {"options": {"width": 6}}),
    "conv": (CONV, {"build": "make"}),
    "forward": (FORWARD, {}),
}
"""Source and further keys of the spec's model."""


def place(
    folder: Path,
    source: str,
    more: dict[str, Any] | None = None,
    edits: dict[str, Any] | None = None,
) -> Path:
    """The small job with a network's file and BLOCKS beside it; returns the spec's path."""
    model = {"kind": "python", "file": "network.py", **(more or {})}
    path = write(folder, {"model": model, **(edits or {})})
    (folder / "network.py").write_text(source)
    (folder / "blocks.py").write_text(BLOCKS)
    return path


def edited(old: str, new: str, source: str = MLP) -> str:
    """A source with one place changed."""
    assert source.count(old) == 1
    return source.replace(old, new)


SEE = "correct it; `job validate --traceback` prints the whole error"
UNTRAINED = (
    "no task's outputs depend on it, so nothing would train it; use it, remove it, or freeze it "
    "(requires_grad = False)"
)
FAULTY: dict[str, tuple[str, str]] = {
    "syntax": (
        edited("        super().__init__()\n", "        super().__init__(\n"),
        "network.py:6: found SyntaxError: '(' was never closed; the file must be Python 3.11; "
        "correct the file",
    ),
    "raises when loaded": (
        "import math\n\nmath.sqrt(-1)\n",
        f"network.py:3: found ValueError: math domain error; the file must load; {SEE}",
    ),
    "lacks a package": (
        "import evengrad_lacks_it\n",
        "network.py:1: found ModuleNotFoundError: No module named 'evengrad_lacks_it'; the file "
        "must load; install what requirements.txt names, or put the module beside the file",
    ),
    "no build": (
        edited("def build(", "def make("),
        "network.py: found no function build; the file must define build; define it, or correct "
        "its name",
    ),
    "build is none": (
        edited("def build(", "build = 3\n\n\ndef make("),
        "network.py: found int build; the file must define build; define it, or correct its name",
    ),
    "build lacks an option": (
        edited("width=8", "depth=8"),
        "network.py:23: found TypeError: build() got an unexpected keyword argument 'width'; "
        f"build(tasks, inputs, **options) must return a network; {SEE}",
    ),
    "build raises": (
        edited("nn.Linear(steps * features, width)", "nn.Linear(steps * features, -width)"),
        "network.py:9: found RuntimeError: Trying to create tensor with negative dimension -6: "
        f"[-6, 18]; build(tasks, inputs, **options) must return a network; {SEE}",
    ),
    "no module": (
        edited("    return Perceptron(tasks, inputs, width)\n", "    Perceptron\n"),
        "network.py:23: found None; build must return a torch.nn.Module; return the network",
    ),
    "no heads": (
        edited("def head(", "def reads("),
        "network.py:23: found Perceptron without them; a network has trunk(inputs) and "
        "head(task, z, inputs), or forward(inputs) alone; define them",
    ),
    "raises in the trunk": (
        edited("self.second(x)", "self.second(x.T)"),
        "network.py:16: found RuntimeError: mat1 and mat2 shapes cannot be multiplied (6x8 and "
        f"6x36); trunk must compute z of a batch; {SEE}",
    ),
    "z is a list of its shape": (
        edited("(1, (self.steps, -1))", "(1, (self.steps, -1)).shape"),
        "network.py:14: found Size; z is a tensor, or a tuple or dict of tensors, some of them of "
        "floats; return such from trunk",
    ),
    "raises in a head": (
        edited('self.heads["of_" + task](z)', 'self.heads["for_" + task](z)'),
        "network.py:20: found KeyError: 'for_kind'; head must compute the outputs of the task "
        f"kind; {SEE}",
    ),
    "wrong shape": (
        edited(" if task in self.pooled else z", ""),
        "network.py:18: found outputs [8, 1] of the task down; its loss needs a tensor [8, 6, 1], "
        "[batch, positions…, outputs]; return outputs of that shape, or correct the spec's task",
    ),
    "no outputs": (
        edited("        return self.heads[", "        self.heads["),
        "network.py:18: found None of the task kind; its loss needs a tensor [8, 2], [batch, "
        "positions…, outputs]; return outputs of that shape, or correct the spec's task",
    ),
    "a task is left out": (
        edited("t, part in each}", "t, part in each if t.outputs < 2}", FORWARD),
        "network.py:12: found ['down', 'level']; forward returns a dict of outputs by task: kind, "
        "level, down, pair; return one for each task",
    ),
    "not finite": (
        edited("self.second(x)", "self.second(x.log())"),
        "network.py:18: found outputs of the task kind that are not finite; the first batch must "
        "give finite numbers; look for log, sqrt or / of 0 or less",
    ),
    "unused parameters": (
        edited("        self.steps = steps\n", "        self.spare = nn.Linear(2, 1)\n"
               "        self.steps = steps\n"),
        f"network.py: found the parameter spare.weight; {UNTRAINED}\n"
        f"network.py: found the parameter spare.bias; {UNTRAINED}",
    ),
    "in place": (
        edited(".relu()\n", ".exp()\n        x.add_(1).mul_(x)\n"),
        "network.py:16: found RuntimeError: one of the variables needed for gradient computation "
        "has been modified by an inplace operation: [torch.FloatTensor [8, 6]], which is output 0 "
        "of Mul, is at version 2; expected version 1 instead; z, which all tasks read, and what a "
        "backward needs must not be changed in place; use operations that return a new tensor, "
        "such as relu(z), not relu_(z)",
    ),
    "in place at z": (
        edited("        z = z.mean(1)", "        z = z.relu_()\n        z = z.mean(1)"),
        "network.py:19: found the head of the task kind changes z; every task must read the same "
        "z, so a head must not change it in place; use operations that return a new tensor, such "
        "as relu(z), not relu_(z)",
    ),
    "random beside the generator": (
        edited("        self.steps = steps\n", "        self.steps = steps\n"
               "        self.slope = random.random()\n").replace(
            "self.first(inputs", "self.slope * self.first(inputs").replace(
            "from torch", "import random\n\nfrom torch"),
        "network.py:21: found outputs or gradients that differ between two networks of one seed; a "
        "run is resumed bit by bit, so what is random comes from torch's generator; draw by torch "
        "alone, not by random, numpy or the time",
    ),
    "state out of state_dict": (
        edited("        self.steps = steps\n", "        self.steps = steps\n"
               "        self.shift = torch.randn(width)\n").replace(
            "x = self.first", "x = self.shift + self.first").replace(
            "from torch", "import torch\nfrom torch"),
        "network.py:20: found outputs that differ once state_dict is in a new network; a resume "
        "has nothing else, so state_dict must hold all that outputs depend on; register what you "
        "compute or count, by register_buffer",
    ),
}  # fmt: skip
"""What is wrong → source, and the line, or lines, of the fault."""
