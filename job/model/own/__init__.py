"""Networks of one's own, from a Python file that the spec names."""
