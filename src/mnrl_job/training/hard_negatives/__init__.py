"""Hard negatives, mined while a model trains."""
