"""Tests of job/diagnose."""
