"""Encoders of the built-in networks: features at the positions of a sample → z [B, P, D]."""
