"""Tests of job/train."""
