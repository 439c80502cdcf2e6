"""How parameters are updated: the optimizer, and the schedule of its learning rate."""
