"""What is wrong with a spec: each fault with its place, the rule and a remedy."""
