"""Tests of job/events."""
