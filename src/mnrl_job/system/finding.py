"""What one check found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. A failed one names the class of its error, which decides the exit code."""

    check: str
    status: Literal["passed", "warning", "failed"]
    detail: str
    remedy: str = ""
    kind: str = ""

    @property
    def message(self) -> str:
        return f"{self.check}: {self.detail}; {self.remedy}"
