"""Whether the right rows are taken: what judges them is never passed over, and a filter leaves some."""

from collections.abc import Sequence

from mnrl_job.config.row_filter import RowFilter
from mnrl_job.data.columns import plain_name
from mnrl_job.data.label_columns import judge, same_columns, suggested
from mnrl_job.data.pairs import SourceRecord
from mnrl_job.data.tabular import Tabular
from mnrl_job.errors import DataError
from mnrl_job.system.logs import warn


def check_taken(contents: Sequence[Tabular], row_filter: RowFilter | None) -> None:
    """Look at the columns that judge the rows that were taken, over all sources.

    Raises:
        DataError: such a column says that not all rows are alike, or that none is right, and there is no filter.
    """
    found = {
        name: one for name, values in same_columns(one.values for one in contents).items() if (one := judge(values))
    }
    asked = {plain_name(one.column) for one in row_filter.conditions} if row_filter else set()
    if row_filter is None and found:
        filtering = suggested(found.values())
        told = "; ".join(f"{one.where}: column {one.name} {one.told}" for one in found.values())
        one_way = f'set MNRL_ROW_FILTER="{filtering}" to use only those rows, or ' if filtering.conditions else "set "
        raise DataError(f"{told}; it may mark which rows to train on; {one_way}MNRL_ROW_FILTER=all to use all")
    if row_filter and row_filter.conditions:
        for name in found.keys() - asked:
            warn(f"column {found[name].name} {found[name].told} in the selected rows and is not in MNRL_ROW_FILTER")


def check_filter(read: Sequence[tuple[Tabular, SourceRecord]], row_filter: RowFilter | None) -> None:
    """A filter that takes no row of any source is a mistake; one that takes none of some source is told.

    Raises:
        DataError: naming the values there are.
    """
    empty = [(content, record) for content, record in read if 0 < record.rows_read == record.filtered]
    if not empty:
        return
    values = same_columns(content.asked for content, _ in empty).values()
    told = (
        f'MNRL_ROW_FILTER="{row_filter}" matches no row of {", ".join(record.name for _, record in empty)}, where '
        + "; ".join(f"{one.name} is {one.shown()}" for one in values)
    )
    if len(empty) == len(read):
        raise DataError(told)
    warn(told)
