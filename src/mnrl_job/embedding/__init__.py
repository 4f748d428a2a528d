"""Texts to vectors, for training and evaluation alike: tokens, chunks of little padding, precision."""
