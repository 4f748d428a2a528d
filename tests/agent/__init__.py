"""Agents of several nodes."""
