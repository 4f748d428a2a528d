"""Files to transfer, and how tests download and find them."""

import os
import re
from pathlib import Path

from mnrl_job.storage.transfer import download
from tests.servers.s3 import SMALL_PART, open_at

ALWAYS = 1_000_000
LARGE = os.urandom(4 * SMALL_PART + 1)
FILES = {"large": LARGE, "deep/er/small": b"small", "ü&+%41#?.txt": b"named", "empty": b""}
DOWNLOAD = """
import sys
from pathlib import Path
from mnrl_job.storage import open_store, s3, transfer
s3.PART_SIZE = transfer.PART_SIZE = int(sys.argv[3])
store = open_store(sys.argv[1], "MNRL_TRAIN_DATA", "path")
transfer.download(store, list(store.list_objects()), Path(sys.argv[2]))
"""


def download_all(uri, folder):
    store = open_at(uri)
    return download(store, list(store.list_objects()), folder)


def downloaded(folder):
    """The files below a folder and their content, without incomplete ones."""
    paths = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if not name.startswith(".partial/")}


def requested_ranges(proxy, key="large"):
    """The byte ranges of an object that were requested, sorted; `""` for all of it."""
    return sorted(seen.partition(" bytes=")[2] for seen in proxy.seen if re.match(rf"GET /bucket/\w+/{key}\b", seen))


def write_files(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}
