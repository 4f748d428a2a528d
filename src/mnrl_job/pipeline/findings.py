"""The findings of a check."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mnrl_job.errors import JobError, Preempted
from mnrl_job.system.finding import Finding


@dataclass(slots=True)
class Findings:
    """The findings so far; `report` is called with each. A check that depends on a failed one is skipped."""

    report: Callable[[Finding], None]
    items: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.items.append(finding)
        self.report(finding)

    def add_all(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.add(finding)

    def passed(self, check: str, detail: str) -> None:
        self.add(Finding(check, "passed", detail))

    @contextmanager
    def checking(self, check: str, errors: type[JobError] = JobError) -> Iterator[None]:
        """Turn such an error into a failed finding; the last clause of its message is the remedy.

        Raises:
            Preempted: the check was stopped on request.
        """
        try:
            yield
        except Preempted:
            raise
        except errors as error:
            detail, _, remedy = str(error).rpartition("; ")
            self.add(Finding(check, "failed", detail or remedy, remedy if detail else "", error.kind))
