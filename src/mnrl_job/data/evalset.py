"""An eval set of a run."""

from dataclasses import dataclass, field
from pathlib import Path

from mnrl_job.data.file_formats.common import BadRow


@dataclass(frozen=True, slots=True)
class EvalSet:
    """An eval set as Arrow files in `folder`: queries, corpus, judgements.

    Of its queries `own_documents` stand in the corpus themselves. `rejected` counts rows left out, by reason.
    """

    name: str
    uri: str
    folder: Path
    queries: int
    documents: int
    judgements: int
    unjudged_queries: int
    sha256: str
    own_documents: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    bad_rows: tuple[BadRow, ...] = ()
