"""Sources to files to rows to training pairs and eval sets."""
