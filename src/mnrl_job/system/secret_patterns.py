"""Find a secret in any encoding: escaped, percent-encoded, in base64, over several lines, or truncated."""

import base64
import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

MASK = "***"
# A truncated secret is found by its first or last 8 characters if it is long enough not to start like a common word.
TRUNCATED_CHARACTERS, MIN_TRUNCATED_LENGTH = 8, 16
BLANK = r"(?i:\s|%(?:25)*(?:20|09|0a|0d)|\\+(?:[nrt]|x(?:20|09|0a|0d)|u00(?:20|09|0a|0d))|&#(?:32|9|10|13);)"
BACKSLASHES = r"(?i:\\|%(?:25)*5c|&#92;)+"
# Encodings lengthen or shorten runs of these; matching them one by one would backtrack exponentially.
PARTS = re.compile(r"[ \t\r\n]+|\\+|[^ \t\r\n\\]")
# A word that starts like a secret continues with these.
WORD_CONTINUES = re.compile(r"[\w/+=-]")
BASE64 = re.compile(r"[A-Za-z0-9+/_=-]*")


@dataclass(frozen=True, slots=True)
class Secret:
    """Patterns of a secret value. `tokens` match its characters one by one."""

    full: re.Pattern[str]
    tokens: tuple[str, ...]
    head: re.Pattern[str] | None
    tail: re.Pattern[str] | None
    encoded: tuple[re.Pattern[str], ...]

    def mask(self, text: str) -> str:
        """`text` without this secret."""
        text = self.full.sub(MASK, text)
        for core in self.encoded:
            text = _mask_spans(text, core, _base64_span)
        if self.tail:
            text = self.tail.sub(MASK, text)
        return _mask_spans(text, self.head, self._truncated_span) if self.head else text

    def _truncated_span(self, text: str, head: re.Match[str], _after: int) -> tuple[int, int]:
        """The span of a truncated secret, empty for a word that merely starts like it."""
        end = head.end()
        for token in self.tokens[TRUNCATED_CHARACTERS:]:
            if not (match := re.compile(token).match(text, end)):
                break
            end = match.end()
        return head.start(), head.start() if WORD_CONTINUES.match(text, end) else end


@lru_cache(maxsize=256)
def compile_secret(value: str) -> Secret:
    """The patterns of a value without leading or trailing blanks."""
    tokens = tuple(map(_token_pattern, PARTS.findall(value)))
    truncatable = len(tokens) >= MIN_TRUNCATED_LENGTH
    tail = "".join(tokens[-TRUNCATED_CHARACTERS:])
    return Secret(
        full=re.compile("".join(tokens)),
        tokens=tokens,
        head=re.compile("".join(tokens[:TRUNCATED_CHARACTERS])) if truncatable else None,
        tail=re.compile(rf"(?:(?<=\.\.\.)|(?<=…))\S{{0,{4 * len(value)}}}?{tail}") if truncatable else None,
        encoded=tuple(re.compile(core) for core in _in_base64(value)),
    )


def _token_pattern(character: str) -> str:
    """A pattern of all encodings of a character, or of a run. Letters and digits are never escaped."""
    if character[0] == "\\":
        return BACKSLASHES
    if character[0] in " \t\r\n":  # form encoding writes each as a plus
        return rf"(?:{BLANK}++|(?:{BLANK}|\+){{1,{len(character)}}})"
    if character.isascii() and character.isalnum():
        return character
    # JSON escapes a character beyond U+FFFF as a surrogate pair.
    surrogates = re.findall("....", character.encode("utf-16-be", "surrogatepass").hex())
    octets = [f"{octet:02x}" for octet in character.encode("utf-8", "surrogatepass")]
    encodings = [
        rf"\\*{re.escape(character)}",
        "".join(rf"\\+u{unit}" for unit in surrogates),
        rf"\\+U{ord(character):08x}",
        rf"\\+x{ord(character):02x}",
        "".join(rf"\\+x{octet}" for octet in octets),
        "".join(rf"%(?:25)*{octet}" for octet in octets),
        re.escape(html.escape(character)),
        rf"&#0*{ord(character)};",
        rf"&#x0*{ord(character):x};",
        *([r"\\+[abefv0]"] if ord(character) < ord(" ") else []),
    ]
    return f"(?i:{'|'.join(encodings)})"


def _in_base64(value: str) -> Iterator[str]:
    """The base64 of a value at each alignment, as within `user:password`, without characters shared with neighbors."""
    octets = value.encode("utf-8", "surrogatepass")
    for offset in range(3):
        # 6 bits per character; characters with bits of neighboring bytes are left out.
        first, last = -(-8 * offset // 6), 8 * (offset + len(octets)) // 6
        core = base64.b64encode(bytes(offset) + octets).decode()[first:last]
        yield re.escape(core).replace(r"\+", "(?:[+-]|%2[Bb])").replace("/", r"(?:\\?/|_|%2[Ff])")


def _base64_span(text: str, core: re.Match[str], after: int) -> tuple[int, int]:
    """The span of all base64 around a match: the characters around it have other bits of the secret, or the user."""
    start, end = core.start(), BASE64.match(text, core.end())
    while start > after and BASE64.fullmatch(text[start - 1]):
        start -= 1
    return start, end.end() if end else core.end()


def _mask_spans(text: str, pattern: re.Pattern[str], span: Callable[[str, re.Match[str], int], tuple[int, int]]) -> str:
    """Mask the span that `span` returns for each match; an empty one is skipped."""
    done, parts = 0, []
    match = pattern.search(text)
    while match:
        start, end = span(text, match, done)
        if end > start:
            parts += [text[done:start], MASK]
            done = end
        match = pattern.search(text, max(end, match.end()))
    return "".join([*parts, text[done:]])
