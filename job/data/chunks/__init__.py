"""Files in pieces of some rows, for data that is read once, from its beginning to its end."""
