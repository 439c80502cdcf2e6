"""Tests of job/show."""
