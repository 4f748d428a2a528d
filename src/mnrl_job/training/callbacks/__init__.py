"""What happens beside the steps of a training: checkpoints, scores, progress, trackers."""
