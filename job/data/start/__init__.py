"""What a network begins with."""
