"""Runs in a store, as a person names and lists them."""
