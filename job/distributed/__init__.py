"""The device, and training with several processes."""
