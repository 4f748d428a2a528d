"""Refuse files of Delta Lake, Hudi and Iceberg tables.

Their log says which files are current; until a cleanup, the others with deleted and replaced rows remain beside them.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath

from mnrl_job.errors import DataError, JobError
from mnrl_job.storage import Store

# The keys of log files; the group is the folder of the table.
LOGS = {
    "Delta Lake": re.compile(r"((?:.*/)?)_delta_log/.+", re.DOTALL),
    "Apache Hudi": re.compile(r"((?:.*/)?)\.hoodie/.+", re.DOTALL),
    "Apache Iceberg": re.compile(r"((?:.*/)?)metadata/[^/]+\.metadata\.json", re.DOTALL),
}
LOG_FOLDERS = ("_delta_log", ".hoodie", "metadata")
DATA_SUFFIXES = (".parquet", ".avro", ".orc")
# A log may have many files; the first ones identify it.
MAX_LOG_FILES = 100


def refuse_table_files(files: Collection[str], logs: Iterable[str], where: str) -> None:
    """Refuse data files of a table. `logs` are paths or keys of possible log files, from the same folder as `files`.

    Raises:
        DataError: naming the kind of table, and how to export it.
    """
    data = [file for file in files if file.endswith(DATA_SUFFIXES)]
    for key in logs if data else ():
        for table, log in LOGS.items():
            if (match := log.fullmatch(key)) and any(file.startswith(match[1]) for file in data):
                raise DataError(
                    f"{where} is part of a {table} table ({key}), whose log determines which files are current; export "
                    "it to plain Parquet with the table's engine, such as spark.table(NAME).write.parquet(FOLDER)"
                )


def local_logs(files: Iterable[Path]) -> Iterator[str]:
    """The files of any log beside or above these files, as absolute paths."""
    for folder in sorted({folder for file in files for folder in file.parents}):
        for log in (folder / name for name in LOG_FOLDERS):
            with suppress(OSError):
                yield from (str(path) for path in islice(log.iterdir(), MAX_LOG_FILES))


def remote_logs(bucket: Store, base: PurePosixPath) -> Iterator[str]:
    """The same above a prefix of a bucket, as full keys; prefixes that cannot be listed are skipped."""
    for folder in base.parents:
        for log in (str(folder / name) for name in LOG_FOLDERS):
            with suppress(JobError):
                yield from (f"{log}/{entry.key}" for entry in islice(bucket.join(log).list_objects(), MAX_LOG_FILES))
