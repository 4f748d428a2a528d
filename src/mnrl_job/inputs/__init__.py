"""What we were given: files, rows, eval sets."""
