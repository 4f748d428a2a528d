"""The global batch plan."""
