"""A run's folder: its attempts, checkpoints, publication and verification."""
