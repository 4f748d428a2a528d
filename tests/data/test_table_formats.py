"""Delta, Hudi and Iceberg tables are refused however they are named; folders beside them are not."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnrl_job.config.setting_types import Source
from mnrl_job.data.sources import locate
from mnrl_job.errors import DataError
from tests.servers.s3 import put

LOGS = {
    "Delta Lake": "_delta_log/00000000000000000000.json",
    "Apache Hudi": ".hoodie/hoodie.properties",
    "Apache Iceberg": "metadata/00000-1.metadata.json",
}


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"query": ["a"], "answer": ["b"]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture(params=["moto", "folder"])
def storage(request, reach, tmp_path):
    """The URI of a folder or bucket, and a function that writes files to it."""
    if request.param == "folder":

        def write(key, content):
            path = tmp_path / "place" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        return str(tmp_path / "place"), write
    server = request.getfixturevalue(request.param)
    return reach(server), lambda key, content: put(server, reach(server), {key: content})


def find(uri):
    return locate(Source("desk", uri), "MNRL_TRAIN_DATA", "path")


@pytest.mark.parametrize("table", LOGS)
@pytest.mark.parametrize(
    "named", ["desk", "desk/", "desk/*.parquet", "desk/day=1", "desk/day=1/b.parquet", "de*/*.parquet"]
)
def test_a_delta_hudi_or_iceberg_table_is_refused_however_its_files_are_named(storage, table, named):
    uri, write = storage
    write("desk/a.parquet", parquet())
    write("desk/day=1/b.parquet", parquet())
    write(f"desk/{LOGS[table]}", json.dumps({}).encode())
    with pytest.raises(DataError, match=table):
        find(f"{uri}/{named}")


def test_plain_files_beside_a_table_are_found(storage):
    uri, write = storage
    write("desk/a.parquet", parquet())
    write("desk/_delta_log/0.json", b"{}")
    write("plain/a.parquet", parquet())
    write("plain/metadata/notes.json", b"{}")
    write("desks/a.parquet", parquet())
    for named in ("plain/a.parquet", "pl*/*.parquet", "desks"):
        assert find(f"{uri}/{named}")
