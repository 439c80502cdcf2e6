"""Tests of job/cli."""
