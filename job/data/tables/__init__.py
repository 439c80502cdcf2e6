"""Tables: cells as they are typed, columns by name or pattern, and the faults of both."""
