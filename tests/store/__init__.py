"""Tests of job/store."""
