"""Checkpoints: a snapshot of the state, its writer and its reader."""
