"""Tests of job/checkpoint."""
