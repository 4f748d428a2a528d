"""The loss over the global batch, and statistics of its embeddings."""
