"""How a step changes the parameters: optimizers and schedules."""
