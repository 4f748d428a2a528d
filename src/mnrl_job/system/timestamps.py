"""Moments as files and reports tell them: UTC, to the second, as in 2026-01-31T09:30:00Z."""

from datetime import UTC, datetime


def told(moment: datetime) -> str:
    """A moment as text."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def now() -> str:
    """The present moment as text."""
    return told(datetime.now(UTC))
