"""The training loop: its loss, its callbacks, what of the model is trained."""
