"""What a worker does in each of its roles."""
