"""What we leave behind: metrics, model card, the published run."""
