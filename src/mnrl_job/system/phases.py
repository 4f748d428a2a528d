"""Phases in which a process makes no sign of life, and how much longer they may take."""

START, LOAD, EXPORT = "start", "load", "export"

# For the other nodes, which takes as long as they take.
JOIN = "join"
# Importing, loading and exporting make no sign of life, and a model may first have to be downloaded.
PATIENCE_AT_FIRST = 10
