"""The pages of the documentation as tests read them: fenced blocks, the commands in them, headings and links."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.program import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(path for folder in ("docs", "k8s", "examples") for path in sorted((ROOT / folder).rglob("*.md"))),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
ASSIGNMENT = re.compile(r"(MNRL_[A-Z_]+)=([^$…]+)")
# A comment begins after white space, so that the # of a URL is none.
COMMENT = re.compile(r"(^|\s)#.*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block and its language."""

    language: str
    text: str

    def commands(self) -> list[str]:
        """Its commands, one each, without comments and line breaks."""
        return [line for line in COMMENT.sub("", self.text.replace("\\\n", " ")).splitlines() if line.strip()]

    def words(self) -> list[str]:
        return shlex.split("\n".join(self.commands()))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path) -> list[Block]:
    return [Block(language, text) for language, text in FENCE.findall(read(path))]


def prose(path: Path) -> str:
    return FENCE.sub("", read(path))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def assignments(path: Path) -> list[tuple[str, str]]:
    """Settings with a value, as `MNRL_SEED=1`, but for values that the page leaves open."""
    words = re.findall(r"`([^`\n]+)`", prose(path))
    words += [word for block in blocks(path) if block.language == "sh" for word in block.words()]
    pairs = [ASSIGNMENT.fullmatch(word.removeprefix("export ")) for word in words]
    return [(pair[1], pair[2].strip('"')) for pair in pairs if pair]


def relative_links(path: Path) -> list[str]:
    return [link for link in LINK.findall(prose(path)) if "://" not in link and not link.startswith("mailto:")]
