"""The findings of a check."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mnrl_job.errors import JobError, Preempted
from mnrl_job.system.finding import Finding


@dataclass(slots=True)
class Findings:
    """The findings so far, each told as it comes. A check that needs a failed one's answer is left out."""

    tell: Callable[[Finding], None]
    found: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.found.append(finding)
        self.tell(finding)

    def passed(self, check: str, detail: str) -> None:
        self.add(Finding(check, "passed", detail))

    @contextmanager
    def checking(self, check: str, errors: type[JobError] = JobError) -> Iterator[None]:
        """Such an error inside is the finding that this check failed; its message ends with what helps.

        Raises:
            Preempted: the check was stopped on request, which says nothing about what it looked at.
        """
        try:
            yield
        except Preempted:
            raise
        except errors as error:
            detail, _, remedy = str(error).rpartition("; ")
            self.add(Finding(check, "failed", detail or remedy, remedy if detail else "", error.kind))
