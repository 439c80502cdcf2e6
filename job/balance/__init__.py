"""Balancers: weights of the tasks, from losses and the Gram matrix of their gradients."""
