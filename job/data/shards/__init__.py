"""Arrays in a folder of shards, whose rows stay on disk until a step needs them."""
