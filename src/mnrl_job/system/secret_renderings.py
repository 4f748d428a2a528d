"""A secret in whatever form a message may spell it: escaped, percent-encoded, in base64, over several lines, or cut."""

import base64
import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

STARS = "***"
# So many characters of a secret give it away; and one must be so long that its beginning is no common word.
CUT_SHOWS, CUTTABLE = 8, 16
BLANK = r"(?i:\s|%(?:25)*(?:20|09|0a|0d)|\\+(?:[nrt]|x(?:20|09|0a|0d)|u00(?:20|09|0a|0d))|&#(?:32|9|10|13);)"
BACKSLASHES = r"(?i:\\|%(?:25)*5c|&#92;)+"
# Runs of these are told longer or shorter than they are; searched one by one they would take forever.
PARTS = re.compile(r"[ \t\r\n]+|\\+|[^ \t\r\n\\]")
# What follows a name that only begins as a secret does.
GOES_ON = re.compile(r"[\w/+=-]")
BASE64 = re.compile(r"[A-Za-z0-9+/_=-]*")


@dataclass(frozen=True, slots=True)
class Secret:
    """One value that is not to be shown. `tokens` are patterns of its characters, one after another."""

    whole: re.Pattern[str]
    tokens: tuple[str, ...]
    head: re.Pattern[str] | None
    tail: re.Pattern[str] | None
    encoded: tuple[re.Pattern[str], ...]

    def starred(self, text: str) -> str:
        """`text` without this secret."""
        text = self.whole.sub(STARS, text)
        for core in self.encoded:
            text = _replaced(text, core, _around)
        if self.tail:
            text = self.tail.sub(STARS, text)
        return _replaced(text, self.head, self._cut) if self.head else text

    def _cut(self, text: str, head: re.Match[str], _since: int) -> tuple[int, int]:
        """From where to where a beginning of the secret stands, empty where another word only begins like it."""
        end = head.end()
        for token in self.tokens[CUT_SHOWS:]:
            if not (more := re.compile(token).match(text, end)):
                break
            end = more.end()
        return head.start(), head.start() if GOES_ON.match(text, end) else end


@lru_cache(maxsize=256)
def secret(value: str) -> Secret:
    """How to find a value, which has no blanks at its ends: these tell nothing."""
    tokens = tuple(map(_rendered, PARTS.findall(value)))
    cuttable = len(tokens) >= CUTTABLE
    tail = "".join(tokens[-CUT_SHOWS:])
    return Secret(
        whole=re.compile("".join(tokens)),
        tokens=tokens,
        head=re.compile("".join(tokens[:CUT_SHOWS])) if cuttable else None,
        tail=re.compile(rf"(?:(?<=\.\.\.)|(?<=…))\S{{0,{4 * len(value)}}}?{tail}") if cuttable else None,
        encoded=tuple(re.compile(core) for core in _in_base64(value)),
    )


def _rendered(character: str) -> str:
    """A pattern of all spellings of a character, or a run. Letters and digits are escaped by nobody."""
    if character[0] == "\\":
        return BACKSLASHES
    if character[0] in " \t\r\n":  # a form has a plus for each
        return rf"(?:{BLANK}++|(?:{BLANK}|\+){{1,{len(character)}}})"
    if character.isascii() and character.isalnum():
        return character
    # JSON writes a character beyond U+FFFF as two.
    pairs = re.findall("....", character.encode("utf-16-be", "surrogatepass").hex())
    octets = [f"{octet:02x}" for octet in character.encode("utf-8", "surrogatepass")]
    spellings = [
        rf"\\*{re.escape(character)}",
        "".join(rf"\\+u{pair}" for pair in pairs),
        rf"\\+U{ord(character):08x}",
        rf"\\+x{ord(character):02x}",
        "".join(rf"\\+x{octet}" for octet in octets),
        "".join(rf"%(?:25)*{octet}" for octet in octets),
        re.escape(html.escape(character)),
        rf"&#0*{ord(character)};",
        rf"&#x0*{ord(character):x};",
        *([r"\\+[abefv0]"] if ord(character) < ord(" ") else []),
    ]
    return f"(?i:{'|'.join(spellings)})"


def _in_base64(value: str) -> Iterator[str]:
    """What base64 makes of a value after 0, 1 or 2 other bytes, as in `user:password`, whatever stands around it."""
    octets = value.encode("utf-8", "surrogatepass")
    for before in range(3):
        # 6 bits a character; those that hold bits of a neighbour are left out.
        first, last = -(-8 * before // 6), 8 * (before + len(octets)) // 6
        core = base64.b64encode(bytes(before) + octets).decode()[first:last]
        yield re.escape(core).replace(r"\+", "(?:[+-]|%2[Bb])").replace("/", r"(?:\\?/|_|%2[Ff])")


def _around(text: str, core: re.Match[str], since: int) -> tuple[int, int]:
    """All of the base64 around what was found in it: its neighbours hold the secret's other bits, or the user."""
    start, end = core.start(), BASE64.match(text, core.end())
    while start > since and BASE64.fullmatch(text[start - 1]):
        start -= 1
    return start, end.end() if end else core.end()


def _replaced(text: str, pattern: re.Pattern[str], span: Callable[[str, re.Match[str], int], tuple[int, int]]) -> str:
    """`text` with stars where the pattern stands, from where to where `span` says; an empty one is passed over."""
    done, kept = 0, []
    found = pattern.search(text)
    while found:
        start, end = span(text, found, done)
        if end > start:
            kept += [text[done:start], STARS]
            done = end
        found = pattern.search(text, max(end, found.end()))
    return "".join([*kept, text[done:]])
