"""Training of many runs as one: batches, optimizers over stacked parameters, checkpoints."""
