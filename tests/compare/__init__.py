"""Tests of job/compare."""
