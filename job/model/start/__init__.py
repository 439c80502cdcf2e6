"""How a network begins: with tensors of another run, with parts that do not train."""
