"""What we make of the data before any GPU is used."""
