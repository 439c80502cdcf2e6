"""The network: trunk, heads, losses, and the predictions that it must beat."""
