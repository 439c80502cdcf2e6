"""Tests of job/model."""
