"""A run measured on other data."""
