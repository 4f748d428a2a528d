"""Tables whose log tells which of their files count: Delta Lake, Hudi and Iceberg are no folders of plain files.

They keep the rows that were deleted or replaced until they are cleaned up.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath

from mnrl_job.errors import DataError, JobError
from mnrl_job.storage import Store

# A file of the log, below the folder of the table.
LOGS = {
    "Delta Lake": re.compile(r"((?:.*/)?)_delta_log/.+", re.DOTALL),
    "Apache Hudi": re.compile(r"((?:.*/)?)\.hoodie/.+", re.DOTALL),
    "Apache Iceberg": re.compile(r"((?:.*/)?)metadata/[^/]+\.metadata\.json", re.DOTALL),
}
LOG_FOLDERS = ("_delta_log", ".hoodie", "metadata")
DATA = (".parquet", ".avro", ".orc")
# A log may have many files; the first ones tell what it is.
LOOKED_AT = 100


def refuse_tables(files: Collection[str], logs: Iterable[str], where: str) -> None:
    """Refuse files that a log rules over.

    Args:
        files: what is to be read.
        logs: what may be files of a log, named from the same folder as the others.
        where: the setting and what it names, for the message.

    Raises:
        DataError: it tells what the table is, and how to export it.
    """
    data = [file for file in files if file.endswith(DATA)]
    for key in logs if data else ():
        for table, log in LOGS.items():
            if (found := log.fullmatch(key)) and any(file.startswith(found[1]) for file in data):
                raise DataError(
                    f"{where} is part of a {table} table ({key}), whose log determines which files are current; export "
                    "it to plain Parquet with the table's engine, such as spark.table(NAME).write.parquet(FOLDER)"
                )


def local_logs(files: Iterable[Path]) -> Iterator[str]:
    """The files of any log beside or above these files, which are named from the root."""
    for folder in sorted({folder for file in files for folder in file.parents}):
        for log in (folder / name for name in LOG_FOLDERS):
            with suppress(OSError):
                yield from (str(path) for path in islice(log.iterdir(), LOOKED_AT))


def remote_logs(bucket: Store, base: PurePosixPath) -> Iterator[str]:
    """The same above a prefix of a bucket, by the whole keys; prefixes that may not be listed tell nothing."""
    for folder in base.parents:
        for log in (str(folder / name) for name in LOG_FOLDERS):
            with suppress(JobError):
                yield from (f"{log}/{entry.key}" for entry in islice(bucket.join(log).list_objects(), LOOKED_AT))
