"""Tests of job/balance."""
