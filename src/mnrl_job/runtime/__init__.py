"""The outside world: processes, devices, logs, files, storage."""
