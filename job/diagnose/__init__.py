"""Why a task does not learn, and which edit of the spec mends it."""
