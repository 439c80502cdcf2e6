"""What goes on inside a network, measured from outside: by layer, by mode, by its outputs."""
