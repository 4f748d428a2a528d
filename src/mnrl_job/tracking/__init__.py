"""Experiment trackers: what they are told of a run, where, and that none of them can stop or slow it."""
