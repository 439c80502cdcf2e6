"""What a spec and its data make: the network and the losses, and a check of those of one's own."""
