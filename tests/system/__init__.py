"""Tests of the whole: layers, README, container, recipe."""
