"""Kills, again and again, under several ways to keep checkpoints: what each loses.

    python -m tests.bench.survival [--sides NAME …] [--kills 30 60] [--seeds 2] [--peers FOLDER]

Every side trains one network on one data set (`problem`) in real processes. A process is ended by
SIGKILL after a seeded number of steps, so that no verdict depends on how fast the machine is, or by
the kernel in the middle of writing a checkpoint. It is started again at once, until the training is
complete (`campaign`). Each side's weights are compared with those of its own undisturbed training.

A unit (a side, a way to kill, a seed) goes into the results when it is measured, and is not
measured again: start the command as often as it needs to end. FOLDER holds peers that are not
installed beside evengrad (`pip install --no-deps --target FOLDER torch-checkpointing`).
"""
