"""Tests of job/record."""
