"""Real faults of other people, rebuilt as small jobs with repaired twins: see README.md."""
