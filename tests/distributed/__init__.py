"""Tests of job/distributed."""
