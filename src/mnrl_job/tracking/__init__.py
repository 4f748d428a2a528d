"""Experiment trackers. None of them can stop a run or delay it for long."""
