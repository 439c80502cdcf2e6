"""Exact gradients of each task's loss where the tasks meet: z, or parameters that they share."""
