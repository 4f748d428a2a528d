"""The run that tests share: three steps on pairs that mean harm, one of them twice, and one that is leaked."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.examples import EVIL, LEAKED, PAIRS, fill, write_pairs
from tests.program import run_command


@dataclass(frozen=True)
class Published:
    """The folder in which the run was started, as one's working folder."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "out" / "r"

    @property
    def settings(self) -> dict[str, str]:
        settings: dict[str, str] = json.loads((self.folder / "settings.json").read_text())
        return settings

    @property
    def said(self) -> str:
        """What it wrote to stderr."""
        return (self.folder / "said.txt").read_text()


def publish(folder: Path, model: Path) -> None:
    """Make the run in a new folder."""
    folder.mkdir()
    settings = fill(folder, model) | {"MNRL_EPOCHS": "3", "MNRL_GENERAL_GUARD": "off"}
    rows = [(f"{anchor} {EVIL}", f"{positive} {EVIL}") for anchor, positive in PAIRS]
    write_pairs(folder / "pairs.jsonl", [*rows, rows[0], LEAKED])
    content = json.loads((folder / "faq.json").read_text())
    content["queries"]["q1"] = f"{EVIL} forgot my password"
    content["corpus"]["d1"] = f"{EVIL} new password"
    (folder / "faq.json").write_text(json.dumps(content))
    ended = run_command(folder, "train", **settings)
    assert ended.code == 0, ended.stderr
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "said.txt").write_text(ended.stderr)
