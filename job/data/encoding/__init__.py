"""How stored arrays and columns become the inputs of a network, as fitted on the training split."""
