"""Numbers with their units, as messages have them."""


def file_size(size: float) -> str:
    """As in `3.1 GB`, `92 MB`, `34 kB`, `512 bytes`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.{int(size < 10 * factor)}f} {unit}"
    return f"{size:.0f} bytes"


def plural(number: int, noun: str) -> str:
    """As in `1 file`, `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """A duration: `4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
