"""The documents of a run in its store, and who may write them."""
