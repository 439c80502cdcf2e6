"""Tests of job/search."""
