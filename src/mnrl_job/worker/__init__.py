"""The process on a device, and its roles."""
