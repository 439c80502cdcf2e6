"""Tests of job/report."""
