"""What a run predicts, shows on other data, and leaves for other programs."""
