"""Tests of job/supervise."""
