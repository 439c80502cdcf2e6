"""One attempt at a run: from the claimed lease to the recorded end."""
