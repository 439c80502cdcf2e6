"""A simulator of RunPod's API, and its tests."""
