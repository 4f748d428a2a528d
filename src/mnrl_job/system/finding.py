"""The result of a check."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check; `kind` is the error class of a failed one, which decides the exit code."""

    check: str
    status: Literal["passed", "warning", "failed"]
    detail: str
    remedy: str = ""
    kind: str = ""

    @property
    def message(self) -> str:
        return f"{self.check}: {self.detail}; {self.remedy}"
