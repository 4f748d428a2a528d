"""Tests of what a user relies on, with real components and small real data."""

import os

# Before torch is imported: threads of several tests on the same cores would wait for one another most of the time.
os.environ["OMP_NUM_THREADS"] = "1"
