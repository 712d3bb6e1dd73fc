"""The training run: the loop, one step, losses, metrics."""
