"""A whole job beside a bare PyTorch loop of the same network, Lightning, and transformers' Trainer.

    python -m tests.bench.speed [--rounds 5] [--tasks 2 4 8 32] [--networks lstm mlp] [--hf PYTHON]

Each side trains the same network on the same samples with AdamW for the same epochs, validates
after each and stores a checkpoint: evengrad as `python -m job run` with all that it does besides
(ledger, events, metrics, alarms, report), the others as short programs. A run of a side is a
process of its own, on one thread, and the sides take turns, the order turned by one from round to
round. A figure is the median over the rounds of a side's value over the bare loop's of the same
round; the bare loop against itself shows what is noise. evengrad tells glibc to keep freed memory,
and one side is a bare loop in an environment that says so too. Results go to
`results/speed.jsonl` as they come, and what is there is not measured again.

--hf: an interpreter that has transformers and this project's packages; without it that side is left
out. No CUDA graphs, and nothing on a GPU: no such machine was there to measure them.
"""

from tests.bench.speed.table import markdown

__all__ = ["markdown"]
