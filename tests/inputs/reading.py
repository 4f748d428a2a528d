"""Reading sources as a run does."""

from mnrl_job.inputs.fetch import fetch, locate
from mnrl_job.inputs.pairs import read_pairs
from mnrl_job.runtime.tables import read_table
from mnrl_job.setting_types import Source
from mnrl_job.settings import Settings


def read(tmp_path, *sources, **settings):
    """The pairs of record of some sources, or of places, and the rows in their file."""
    named = [one if isinstance(one, Source) else Source(f"s{i}", str(one)) for i, one in enumerate(sources)]
    fetched = tuple(fetch(locate(source, "MNRL_TRAIN_DATA"), tmp_path / "in") for source in named)
    pairs = read_pairs(fetched, Settings(**settings), tmp_path / "pairs.arrow")
    return pairs, read_table(pairs.path).to_pylist()
