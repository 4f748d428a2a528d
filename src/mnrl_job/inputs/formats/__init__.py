"""The formats of data files: from bytes to rows with their line numbers."""
