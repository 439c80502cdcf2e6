"""Tests of job/export."""
