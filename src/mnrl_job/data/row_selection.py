"""Whether the right rows are selected: label columns need a filter, and a filter must match some rows."""

from collections.abc import Sequence

from mnrl_job.config.row_filter import RowFilter
from mnrl_job.data.columns import normalize_name
from mnrl_job.data.label_columns import find_label_problem, merge_by_column, suggest_filter
from mnrl_job.data.pairs import SourceRecord
from mnrl_job.data.tabular import TabularSource
from mnrl_job.errors import DataError
from mnrl_job.system.logs import warn


def check_labels(sources: Sequence[TabularSource], row_filter: RowFilter | None) -> None:
    """Check the label columns of the selected rows.

    Raises:
        DataError: labels vary or exclude all rows, and there is no filter.
    """
    columns = merge_by_column(source.label_values for source in sources)
    problems = {key: problem for key, values in columns.items() if (problem := find_label_problem(values))}
    filtered = {normalize_name(condition.column) for condition in row_filter.conditions} if row_filter else set()
    if row_filter is None and problems:
        suggestion = suggest_filter(problems.values())
        descriptions = "; ".join(
            f"{problem.where}: column {problem.column} {problem.description}" for problem in problems.values()
        )
        remedy = f'set MNRL_ROW_FILTER="{suggestion}" to use only those rows, or ' if suggestion.conditions else "set "
        raise DataError(f"{descriptions}; it may mark which rows to train on; {remedy}MNRL_ROW_FILTER=all to use all")
    if row_filter and row_filter.conditions:
        for key in problems.keys() - filtered:
            problem = problems[key]
            warn(f"column {problem.column} {problem.description} in the selected rows and is not in MNRL_ROW_FILTER")


class NoRowMatches(DataError):
    """`MNRL_ROW_FILTER` excludes every row."""


def check_filter(sources: Sequence[tuple[TabularSource, SourceRecord]], row_filter: RowFilter | None) -> None:
    """Warn of sources without a row that matches the filter.

    Raises:
        NoRowMatches: no source has one.
    """
    unmatched = [(source, record) for source, record in sources if 0 < record.rows_read == record.filtered]
    if not unmatched:
        return
    columns = merge_by_column(source.filter_values for source, _ in unmatched).values()
    names = ", ".join(record.name for _, record in unmatched)
    values = "; ".join(f"{column.name} is {column.summary()}" for column in columns)
    message = f'MNRL_ROW_FILTER="{row_filter}" matches no row of {names}, where {values}'
    if len(unmatched) == sum(record.rows_read > 0 for _, record in sources):
        raise NoRowMatches(f"{unmatched[0][0].files[0]}: {message}")
    warn(message)
