"""One story per command, step by step. It knows every step; no step knows it."""
