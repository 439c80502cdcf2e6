"""Tests of job/run."""
