"""Metrics, relevance judgments, their significance and the gate."""
