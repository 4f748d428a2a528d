"""What we believe: rankings, metrics and their certainty."""
