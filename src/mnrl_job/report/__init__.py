"""Reports of a run: `metrics.json`, HTML page, model card."""
