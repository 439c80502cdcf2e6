"""Samples and targets: from files to checked, split tensors."""
