"""The machine and the process: devices, limits, files, logs, secrets, signals."""
