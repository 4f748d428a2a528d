"""UTC timestamps to the second, as in 2026-01-31T09:30:00Z."""

from datetime import UTC, datetime


def format_utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def now() -> str:
    return format_utc(datetime.now(UTC))
