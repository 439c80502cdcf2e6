"""Tests of job/spec."""
