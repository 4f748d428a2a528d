"""Formatting of numbers and texts."""

from collections.abc import Iterable

from markupsafe import Markup, escape

# Between the title of a document and its text.
TITLE_END = "\t"
MINUS = "\u2212"
# With spaces at which no line breaks.
ARROW = "\u00a0→\u00a0"


def plain(value: float, digits: int = 3) -> str:
    """A score: `0.389`."""
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """A change: `+0.197`, `−0.020`, and `0.000` for none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if not float(text) else text.replace("-", MINUS)


def p_value(value: float) -> str:
    """A p-value: `0.0005`, `0.34`."""
    return f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def count(value: float) -> str:
    """A whole number: `10,000`."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """A tick label with up to four digits: `0.05`, `2e-05`, `12,000`."""
    if value and abs(value) < 0.001:
        return f"{value:.3g}".replace("-", MINUS).replace("e\u22120", f"e{MINUS}").replace("e\u2212", f"e{MINUS}")
    return f"{value:,.4g}".replace("-", MINUS) if abs(value) < 1000 else count(value)


def percent(value: float) -> str:
    """`12.5 %`."""
    return f"{value:.1%}".replace("%", " %")


def join_words(values: Iterable[str]) -> str:
    """`a, b and c`."""
    *others, last = values
    return f"{', '.join(others)} and {last}" if others else last


def one_line(text: str) -> str:
    return " ".join(text.split())


def truncate(text: str, characters: int) -> str:
    return shorten(one_line(text), characters)


def shorten(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def document(text: str, characters: int) -> Markup:
    """A truncated document with its title in bold."""
    title, end, rest = shorten(text, characters).partition(TITLE_END)
    return Markup('<b class="title">{}</b> {}').format(title, rest) if end else escape(title)


def timestamp(text: str) -> str:
    """`2026-01-31T09:30:00Z` as `2026-01-31 09:30:00 UTC`."""
    return text.replace("T", " ").replace("Z", " UTC")
