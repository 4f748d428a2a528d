"""What we change: the batch plan and the training loop."""
